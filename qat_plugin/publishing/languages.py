"""Whisper's languages by name and by the code that the Hub wants; transformers' table, which is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat_plugin.errors import PublishError

_NAMES = """
en=english zh=chinese de=german es=spanish ru=russian ko=korean fr=french ja=japanese pt=portuguese tr=turkish
pl=polish ca=catalan nl=dutch ar=arabic sv=swedish it=italian id=indonesian hi=hindi fi=finnish vi=vietnamese
he=hebrew uk=ukrainian el=greek ms=malay cs=czech ro=romanian da=danish hu=hungarian ta=tamil no=norwegian
th=thai ur=urdu hr=croatian bg=bulgarian lt=lithuanian la=latin mi=maori ml=malayalam cy=welsh sk=slovak
te=telugu fa=persian lv=latvian bn=bengali sr=serbian az=azerbaijani sl=slovenian kn=kannada et=estonian
mk=macedonian br=breton eu=basque is=icelandic hy=armenian ne=nepali mn=mongolian bs=bosnian kk=kazakh
sq=albanian sw=swahili gl=galician mr=marathi pa=punjabi si=sinhala km=khmer sn=shona yo=yoruba so=somali
af=afrikaans oc=occitan ka=georgian be=belarusian tg=tajik sd=sindhi gu=gujarati am=amharic yi=yiddish lo=lao
uz=uzbek fo=faroese ht=haitian_creole ps=pashto tk=turkmen nn=nynorsk mt=maltese sa=sanskrit lb=luxembourgish
my=myanmar bo=tibetan tl=tagalog mg=malagasy as=assamese tt=tatar haw=hawaiian ln=lingala ha=hausa ba=bashkir
jw=javanese su=sundanese yue=cantonese
"""

_OTHER_NAMES = """
my=burmese ca=valencian nl=flemish ht=haitian lb=letzeburgesch ps=pushto pa=panjabi ro=moldavian ro=moldovan
si=sinhalese es=castilian zh=mandarin
"""

# Whisper's code → ISO 639, where they differ.
_HUB_CODES = {"jw": "jv"}


def _table() -> dict[str, str]:
    pairs = (pair.split("=") for pair in (_NAMES + _OTHER_NAMES).split())
    return {name.replace("_", " "): code for code, name in pairs}


CODES = _table()
"""Lower-case language name → Whisper's code."""


def whisper_language(language: str) -> str:
    """Whisper's code of a language that a recipe names ('French', 'fr', 'jv'). Raises `PublishError` for an unknown one."""
    name = language.lower()
    code = {hub: own for own, hub in _HUB_CODES.items()}.get(name, CODES.get(name, name))
    if code not in CODES.values():
        raise PublishError(f"language is {language!r}, which Whisper does not know: write it as 'french' or 'fr'")
    return code


def hub_language(language: str) -> str:
    """The ISO 639 code of a language that a recipe names. Raises `PublishError` for an unknown one."""
    code = whisper_language(language)
    return _HUB_CODES.get(code, code)


def asked_of_clients(settings: Mapping[str, Any]) -> dict[str, str]:
    """What clients' `generate` is given to do what was measured; nothing for a model that knows English only."""
    if not settings["generation_config"].get("is_multilingual", True):
        return {}
    return {"language": whisper_language(settings["language"]), "task": settings["task"]}
