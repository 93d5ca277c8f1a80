"""The affixes of English, and which of them show themselves on a word nobody has seen.

Free affixes are cut off any stem that is long enough; the others off known words only (``number`` is no
``numb`` + ``er``). Which are free was decided on every second word of SIGMORPHON 2022's English development
set: those whose cuts from unknown stems were right more often than not.
"""


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


INFLECTIONS = _set("s ed ing er est")
"""Suffixes that make no new word: an inflected form may be far more frequent than its root."""

FREE_SUFFIXES = _set("""
    ability able blast cele crat cyte derm ectomy ed er ergic esque est eth ful genic gram graph graphy
    head hood ification ify ing ism ist itis ization ize izing land latry less like lith ly lysis lytic
    mania ment meter metric metry ness nomy oid ological ologist ology omics osis pathy phile philia phobe
    phobia phore phyte plasty ploid proof s scope scopy ship tard toxic troph tropic type uria ware wise
    work
""")

SUFFIXES = FREE_SUFFIXES | _set("""
    age al ally an ance ane ant ary ase ate ation ative cy dom ee eer emia en ence ery ese ess ette fest
    gen gene ia ial ian ible ic ical ics ide ine ion isation ise ish istic ite ition ity ium ive let ling
    logy man oma onym or ory ous ry side some ster th tion tomy ual ward way y yl
""")

FREE_PREFIXES = _set("""
    acyl aero after allo amino anthropo anti auto back bio brady cardio chemi chemo chloro chromo chrono
    circum cis copro counter cross cryo crypto cyber cyclo cyto down eco ecto electro endo entero erythro
    ethno ferro fibro fluoro gastro giga glyco gyro hemi hemo hepato hepta hetero hexa holo hydro hyper
    hypo idio immuno infra inter intra iodo karyo keto kilo lepto leuko levo lipo litho lympho macro
    magneto mechano medio mega meso methyl micro mid milli mini mis mono morpho multi myco myelo myo nano
    naso neo neuro nitro non normo oleo oligo omni onco opto organo osteo out over oxo oxy palaeo paleo
    patho penta peri phospho photo phyto pico piezo pluri pneumo poly post proto pseudo psycho pyro quasi
    radio retro rheo rhino rhizo self semi sero socio somato spectro spiro stereo sub super supra techno
    tele terato tetra thermo thio trans tropho ultra un under up uro vaso xeno xero xylo zoo
""")

PREFIXES = FREE_PREFIXES | _set("""
    a adeno amphi ante apo arch astro be bi co de demo di dis duo dys em en epi equi eu euro exo extra for
    fore galacto geo haemo helio histo homo hypno il im in ir iso lacto logo mal meta muco necro nucleo
    octo ortho pan para petro pharmaco philo pre pro re ribo sarco sclero seismo step sur syn tera theo
    thyro topo tri tricho uni veno vice video
""")
"""Prefixes, and the combining forms of Greek and Latin."""
