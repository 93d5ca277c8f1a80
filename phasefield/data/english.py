"""The affixes of English, and which of them show themselves on a word nobody has seen.

Free affixes are cut off any stem that is long enough; the others off known words only (``number`` is no
``numb`` + ``er``).
"""


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


INFLECTIONS = _set("s ed ing er est")
"""Suffixes that make no new word: an inflected form may be far more frequent than its root."""

FREE_SUFFIXES = _set("""
    ability able ectomy ed er esque est ful graphy hood ification ify ing ism ist itis ization ize izing less
    like ly ment metry ness oid ological ologist ology osis phobia s ship wise
""")

SUFFIXES = FREE_SUFFIXES | _set("""
    age al ally an ance ane ant ary ase ate ation ative cy dom ee eer en ence ery ese ess eth
    ette ia ial ian ible ic ical ics ide ine ion isation ise ish ite ition ity ium ive let ling or ory
    ous ry scope some ster th tion ual ward y yl
""")

FREE_PREFIXES = _set("""
    anthropo anti auto bio cardio chemo chloro circum counter cryo crypto cyber cyclo cyto electro ethno
    fluoro gastro glyco hemi hetero hexa hydro hyper hypo immuno inter intra macro magneto mega methyl
    micro mis mono multi nano neuro non oligo organo osteo over palaeo paleo penta phospho photo phyto
    poly post proto pseudo psycho pyro quasi radio retro semi socio stereo sub super supra tetra thermo
    thio trans ultra un under
""")

PREFIXES = FREE_PREFIXES | _set("""
    a aero after allo amino arch astro back be bi co cross de di dis down dys eco ecto en endo epi equi
    exo extra for fore geo holo homo il im in ir iso mal meso meta mid mini myo neo ortho out pan para
    peri pre pro re self sero step tele tri uni up vice video xeno zoo
""")
