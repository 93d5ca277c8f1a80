"""The affixes of English, and which of them show themselves on a word nobody has seen.

An affix stands in the list of those that are cut off any stem long enough, or of those that are cut off
known words only (``number`` is no ``numb`` + ``er``, and ``uncle`` no ``un`` + ``cle``).
"""

INFLECTIONS = frozenset("s ed ing er est".split())
"""Suffixes that make no new word: an inflected form may be far more frequent than its root."""

FREE_SUFFIXES = frozenset(
    "s ed ing ly ness less like able ability ize ization izing ism ist ful ship ology ological ologist "
    "ify ification ectomy itis osis oid ment wise esque hood metry graphy phobia".split()
)

SUFFIXES = FREE_SUFFIXES | frozenset(
    "er est ic al y ion ity ation ally ive eth ian ate ous ical ish ar or an en ite in some ase ess ise "
    "ine ary ee ry ant ance let ence yl ial ory age dom ible cy ium ics ery ling ese ward ette ster isation "
    "ual ative ia ane ide th ling ent ure tion ition eer scope".split()
)

FREE_PREFIXES = frozenset(
    "non anti micro hyper pseudo multi photo super inter over under counter electro neuro immuno "
    "hydro cyber mega hetero radio paleo palaeo retro hemi psycho ultra tetra cyclo cyto oligo cryo "
    "supra phospho thermo phyto chemo hexa osteo cardio organo pyro ethno stereo glyco socio crypto "
    "magneto thio methyl anthropo fluoro gastro chloro penta macro poly mono nano semi trans intra auto "
    "post quasi circum sub un mis hypo bio proto".split()
)

PREFIXES = FREE_PREFIXES | frozenset(
    "re de pre in be out dis co en a bi di tri para fore up iso meta endo pro peri neo for tele geo extra "
    "self homo mini mid meso allo down epi exo pan eco uni aero zoo ortho myo mal after xeno dys ecto "
    "im il ir video sero astro amino holo equi step vice cross arch back".split()
)
