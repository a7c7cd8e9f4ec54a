"""French text as it is said: each rule by itself, what must not change, and whatever a model may write."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from qat_plugin.evaluation.french import normalize_french
from qat_plugin.evaluation.french_numbers import cardinal, ordinal

DEMO_SPEECH = Path(__file__).parents[2] / "demo-data" / "speech"


def check(text: str, expected: str) -> None:
    assert normalize_french(text) == expected
    assert normalize_french(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("l'eau", "l' eau"),
        ("L’EAU, d‘abord", "l' eau d' abord"),
        ("Qu'est-ce qu'il y a ?", "qu' est ce qu' il y a"),
        ("jusqu'au soir, lorsqu'elle, puisqu'on, quoiqu'il, quelqu'un, presqu'île",
         "jusqu' au soir lorsqu' elle puisqu' on quoiqu' il quelqu' un presqu' île"),
        ("d'aujourd'hui", "d' aujourd'hui"),
        ("c'qu'il dit", "c' qu' il dit"),
        ("prud'homme, p'tit, rock'n'roll, O'Neill", "prud'homme p'tit rock'n'roll o'neill"),
        ("'Bonjour', dit-il, 'ça va'", "bonjour dit il ça va"),
        ("l'", "l'"),
        ("les chats' queue", "les chats queue"),
    ],
)  # fmt: skip
def test_apostrophes(text: str, expected: str) -> None:
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cœur, Œuvre, ex-æquo", "coeur oeuvre ex aequo"),
        ("ÉTÉ À NOËL e\u0301te\u0301", "été à noël été"),
        ("porte-monnaie – non‑dit", "porte monnaie non dit"),
        ("[Musique] (rires) <bruit>", "musique rires bruit"),
        ("", ""),
        (" … !", ""),
        ("Привет, 谢谢", "привет 谢谢"),
    ],
)
def test_letters(text: str, expected: str) -> None:
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("M. Dupont et MM. Martin", "monsieur dupont et messieurs martin"),
        ("M. Écoute", "monsieur écoute"),
        ("M. et Mme Dupont, M. ou Mlle Martin, M. et M. Roy", "monsieur et madame dupont monsieur ou mademoiselle martin monsieur et monsieur roy"),
        ("la ligne M. et elle", "la ligne m et elle"),
        ("Bonjour. M. Dupont", "bonjour monsieur dupont"),
        ("A. M. Dupont", "a m dupont"),
        ("la ligne M. elle", "la ligne m elle"),
        ("Mr Bean, Mme Bovary, Mlle Rose, Mmes, Mlles, Mgr", "monsieur bean madame bovary mademoiselle rose mesdames mesdemoiselles monseigneur"),
        ("Dr. House, le Pr Raoult", "docteur house le professeur raoult"),
        ("St-Étienne, Ste Marie", "saint étienne sainte marie"),
        ("n°5, N° 6, nº 7, № 8, n°s 1", "numéro cinq numéro six numéro sept numéro huit numéros un"),
        ("Marks & Spencer", "marks et spencer"),
        ("chiens, chats, etc.", "chiens chats et cetera"),
        ("et caetera, et cætera", "et cetera et cetera"),
        ("la S.N.C.F. à 8 P.M.", "la sncf à huit pm"),
        ("l'O.N.U., J.-P. Serre", "l' onu j p serre"),
        ("appuyez sur # ou *.", "appuyez sur dièse ou étoile"),
        ("#francais **gras**", "francais gras"),
        ("jean@exemple.fr", "jean arobase exemple fr"),
        # those of other languages and of everyday words stay
        ("me dit le maître, st pr dr", "me dit le maître st pr dr"),
    ],
)  # fmt: skip
def test_abbreviations(text: str, expected: str) -> None:
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 1 16 17 21 70 71 80 81 91 99", "zéro un seize dix sept vingt et un soixante dix soixante et onze quatre vingt quatre vingt un "
         "quatre vingt onze quatre vingt dix neuf"),
        ("quatre-vingts, quatre-vingt, deux cents", "quatre vingt quatre vingt deux cent"),
        ("1998", "mille neuf cent quatre vingt dix huit"),
        ("dix-neuf cent quatre-vingt-dix-huit", "mille neuf cent quatre vingt dix huit"),
        ("mil neuf cent quatorze, onze cent dix", "mille neuf cent quatorze mille cent dix"),
        ("le mil est une céréale", "le mil est une céréale"),
        ("soixante-dix-sept cent un", "soixante dix sept cent un"),
        ("1 500 000, 1.500.000, 1\u202f500\u00a0000, 1,500,000", " ".join(["un million cinq cent mille"] * 4)),
        ("007, 05", "zéro zéro sept zéro cinq"),
        ("1234567890123", "un deux trois quatre cinq six sept huit neuf zéro un deux trois"),
        ("3,14; 0,05; 1,125; 2,71828", "trois virgule quatorze zéro virgule zéro cinq un virgule cent vingt cinq deux virgule sept un huit "
         "deux huit"),
        ("version 3.5 et 1.2.3", "version trois point cinq et un deux trois"),
        ("1,2,3", "un deux trois"),
        ("-5, F-22, 12-6", "moins cinq f vingt deux douze six"),
        ("UB2006 3D H323", "ub deux mille six trois d h trois cent vingt trois"),
        ("le 12/05/2024", "le douze zéro cinq deux mille vingt quatre"),
        ("l'11 novembre", "l' onze novembre"),
        ("sur 5.Pour finir", "sur cinq pour finir"),
        ("1 heure, 21 fois, 1 page, 31 pièces, 1 chat", "une heure vingt et une fois une page trente et une pièces un chat"),
        ("6×7=42, 1+1", "six fois sept égale quarante deux un plus un"),
        ("½, ¾, x²", "un demi trois quarts x carré"),
        ("١٢", "douze"),
    ],
)  # fmt: skip
def test_numbers(text: str, expected: str) -> None:
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1er, 1ers, 1re, 1ère, 1ères", "premier premiers première première premières"),
        ("2e, 2ème, 2nd, 2nde, 2 ème", "deuxième deuxième second seconde deuxième"),
        ("3èmes, 21e, 80e, 100e, 200e, 1000e", "troisièmes vingt et unième quatre vingtième centième deux centième millième"),
        ("10eme, 9è, 5ᵉ, 1ᵉʳ", "dixième neuvième cinquième premier"),
        ("François Ier, XIXe siècle, Ve République, IVème", "françois premier dix neuvième siècle cinquième république quatrième"),
        ("Louis XIV, tome II", "louis quatorze tome deux"),
        ("Ver, Vie, Vers, vitamine C, Malcolm X, IIIII, MIX, CD, V. I.", "ver vie vers vitamine c malcolm x iiiii mix cd v i"),
    ],
)  # fmt: skip
def test_ordinals(text: str, expected: str) -> None:
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("14h30, 14 h 30, 14H30, 14:30", " ".join(["quatorze heures trente"] * 4)),
        ("1h, 21h, 0h15, 8h05, 14h00", "une heure vingt et une heures zéro heure quinze huit heures cinq quatorze heures"),
        ("2 h 1", "deux heures un"),
        ("24h/24", "vingt quatre heures vingt quatre"),
        ("50 %, 12,5%, cinquante pourcent", "cinquante pour cent douze virgule cinq pour cent cinquante pour cent"),
        ("5 €, 1 €, 0 €, 5,50 €, 5€50, 5.50 €, €5", "cinq euros un euro zéro euro cinq euros cinquante cinq euros cinquante cinq euros "
         "cinquante cinq euros"),
        ("0,50 €, 0,01 €, 2,5 €", "cinquante centimes un centime deux euros cinquante"),
        ("2 000 000 €, 2 500 000 €", "deux millions d' euros deux millions cinq cent mille euros"),
        ("1,5 milliard d'euros", "un virgule cinq milliard d' euros"),
        ("$5, 1 £, 3 £, 1,999 €", "cinq dollars une livre trois livres un virgule neuf cent quatre vingt dix neuf euro"),
        ("10 km, 1 km, 1,5 km, 100 km/h, 20 m², 18m, 1 min, 21 min", "dix kilomètres un kilomètre un virgule cinq kilomètre cent kilomètres heure "
         "vingt mètres carrés dix huit mètres une minute vingt et une minutes"),
        ("-5 °C, 20°", "moins cinq degrés celsius vingt degrés"),
        ("5 m'a dit, 5G, 3 M", "cinq m' a dit cinq g trois m"),
        ("06 12 34 56 78; 0612345678; 06.12.34.56.78", "; ".join(["zéro six douze trente quatre cinquante six soixante dix huit"] * 3).replace(";", "")),
        ("+33 6 12 34 56 78", "plus trente trois six douze trente quatre cinquante six soixante dix huit"),
        ("01 00 05 10 20", "zéro un zéro zéro zéro cinq dix vingt"),
        ("0 800 123 456, 0800 123 456, 0892.700.012", " ".join(["zéro huit cent cent vingt trois quatre cent cinquante six"] * 2)
         + " zéro huit cent quatre vingt douze sept cent zéro douze"),
        ("10 000, 0 800", "dix mille zéro huit cent"),
        ("3,20 euros, 1 234,50 euros, 0,20 euro, 2,5 euros", "trois euros vingt mille deux cent trente quatre euros cinquante vingt centimes "
         "deux virgule cinq euros"),
        ("1m80, 12m05", "un mètre quatre vingt douze mètres zéro cinq"),
        ("514-555-1234", "cinq un quatre cinq cinq cinq un deux trois quatre"),
    ],
)  # fmt: skip
def test_what_stands_around_figures(text: str, expected: str) -> None:
    check(text, expected)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("M. de Villepin et M. le maire sont là.", "Monsieur de Villepin et monsieur le maire sont là."),
        ("MM. les députés ont reçu M. d'Artagnan", "messieurs les députés ont reçu monsieur d'Artagnan"),
        ("Le budget est de 2,5 milliards d'euros.", "le budget est de deux virgule cinq milliards d'euros"),
        ("3 milliards €, 10 millions $", "trois milliards d'euros, dix millions de dollars"),
        ("Rome, fondée en 753 av. J.-C.", "Rome, fondée en sept cent cinquante-trois avant Jésus-Christ"),
        ("En 79 apr. J.-C., le Vésuve", "en soixante-dix-neuf après Jésus-Christ, le Vésuve"),
        ("Il fait 21 °C, et -5 °C la nuit.", "il fait vingt et un degrés Celsius, et moins cinq degrés Celsius la nuit"),
        ("Il pèse 70 kg.", "il pèse soixante-dix kilos"),
        ("Il roule à 90 km/h.", "il roule à quatre-vingt-dix kilomètres à l'heure"),
        ("110 km/h", "cent dix kilomètres par heure"),
        ("Le 1er mai, la 1re fois, le 2e jour", "le premier mai, la première fois, le deuxième jour"),
        ("Le dossier n° 12", "le dossier numéro douze"),
        ("Le train part à 14 h 30.", "le train part à quatorze heures trente"),
        ("en 2 h 05 min", "en deux heures cinq minutes"),
        ("15 % des voix, 3,5 % des sièges", "quinze pour cent des voix, trois virgule cinq pour cent des sièges"),
        ("une valeur de 3,14", "une valeur de trois virgule quatorze"),
        ("0,5 l de lait, 1 t de blé sur 3 ha", "zéro virgule cinq litre de lait, une tonne de blé sur trois hectares"),
        ("attendez 30 s ou 5 mn", "attendez trente secondes ou cinq minutes"),
    ],
)  # fmt: skip
def test_sentences_are_the_same_written_and_said(written: str, said: str) -> None:
    assert normalize_french(written) == normalize_french(said)
    assert not re.search(r"[0-9]|\b(?:km|kg|av|apr|mm)\b", normalize_french(written))
    for text in (written, said):
        check_robust(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("la ligne M. elle part", "la ligne m elle part"),
        ("J.-C. Dupont est avant J. Martin", "j c dupont est avant j martin"),
        ("5 l'ont vu, 3 s'en vont, 2 t'ont dit", "cinq l' ont vu trois s' en vont deux t' ont dit"),
        ("trois millions", "trois millions"),
    ],
)
def test_what_only_looks_like_an_abbreviation_stays(text: str, expected: str) -> None:
    check(text, expected)


def test_names_of_numbers() -> None:
    """num2words leaves an s in some ordinals."""
    assert [ordinal(n) for n in (80, 180, 1_000_000, 2_000_000, 1_000_000_000)] == [
        "quatre vingtième", "cent quatre vingtième", "millionième", "deux millionième", "milliardième",
    ]  # fmt: skip
    assert cardinal(21, feminine=True) == "vingt et une" and cardinal(11, feminine=True) == "onze"
    names = [cardinal(n) for n in range(3000)]
    assert len(set(names)) == 3000
    # Their own words are words of numbers, whoever wrote them.
    for n in range(3000):
        assert normalize_french(str(n)) == normalize_french(names[n])


def check_robust(text: str) -> None:
    normalized = normalize_french(text)
    assert normalize_french(normalized) == normalized, text
    assert normalized or not any(char.isalnum() for char in text), text
    assert not re.search(r"[0-9A-Z]|  |^ | $", normalized), text


def test_whatever_a_model_may_write() -> None:
    generator = random.Random(0)
    pieces = [*"0123456789 .,'-’:;/€$%°²hHeMXVIlLdqu nœÆ#*@+=×()…!?", "1er", "2e", "ème", "cent ", "vingt ", "mille ", "dix ", "neuf ",
              "onze ", "mil ", "M. ", "etc.", "n°", "qu'", "aujourd'hui", "l'", "St ", "Dr", "km", " h", "30", "e\u0301", "İ", "ß", "привет",
              "½", "Ⅳ", "١", "\u00a0", "et ", "un ", "soixante ", "&", "A.B.", "million ", "s ", "av. J.-C.", "M. de ", "kilo ", "kilomètres ", "par heure", "à l'heure", "km/h", "milliards €", " min"]  # fmt: skip
    for _ in range(20_000):
        check_robust("".join(generator.choices(pieces, k=generator.randint(1, 12))))


@pytest.mark.parametrize("corpus", ["asterisk_fr", "tuxpaint_fr"])
def test_real_texts(corpus: str) -> None:
    manifest = DEMO_SPEECH / corpus / "manifest.jsonl"
    if not manifest.is_file():
        pytest.skip("the demo's speech is not here: make demo fetches it")
    texts = [json.loads(line)["text"] for line in manifest.read_text(encoding="utf8").splitlines()]
    assert len(texts) > 500
    for text in texts:
        check_robust(text)
