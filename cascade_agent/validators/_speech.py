"""The acts of a text in a conversation: it asks, declines, thanks, says done or announces.

The lists hold the few words of a language that cannot be known by their form. A language that is not in them is judged
by structure alone (question marks, figures, names, length), which errs on the side of keeping the answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cascade_agent.validators._words import fold

if TYPE_CHECKING:
    from collections.abc import Callable

asks: Final = re.compile(r"[?？؟՞¿፧]|か。|か$|吗|呢[。\s]*$").search
_DENSE = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_DENSE_WORTH: Final = 2
_SENTENCE_END = re.compile(r"(?<=[.!?。！？؟])\s+|\n+|(?<=[。！？])")


def _words(*lists: str, dense: str) -> Callable[[str], re.Match[str] | None]:
    """Return a search for whole words, where one in * stands for all that begin so, or morphemes without spaces."""
    words = [w for line in lists for w in line.split()]
    parts = (re.escape(w[:-1]) + r"\w*" if w.endswith("*") else re.escape(w) for w in words)
    return re.compile(r"(?<!\w)(?:" + "|".join(sorted(parts, key=len, reverse=True)) + rf")(?!\w)|{dense}").search


# Of folded texts: negation and withdrawal, thanks, a claim that all is done, an announcement, a request to wait.
declines: Final = _words(
    "no not never none nothing nobody neither cannot without unable",
    "unfortunately sorry apologize* apologi* mind",
    "nein nicht nichts nie niemals kein keine keinen keiner keines keinem leider",
    "non ne n'ai n'est n’ai n’est pas rien jamais aucun aucune laisse laissez désolé désolée",
    "nunca nada ningún ninguna ninguno tampoco jamás deja déjalo mejor siento",
    "não nenhum nenhuma deixa deixe niente nulla nessun nessuna lascia lasci",
    "nee niet niets nooit geen laat nej inte ingen inget ingenting ikke intet aldrig aldri låt ei eivät älä",
    "nie nigdy nic żaden ani ne není žádný nem semmi nincs nimic niciun",
    "не нет ничего никогда нельзя ни ні нема нічого hayır değil",
    "yok hiç kalsın không đừng chưa tidak jangan bukan belum",
    "όχι δεν μην τίποτα नहीं मत لا لم لن ليس لست غير לא אין",
    dense=r"\w+n['’]t(?!\w)|不|没|沒|别|別|算了|無|无|ない|ません|なかった|いいえ|結構|아니|않|못|없|괜찮|ไม่",
)
thanks: Final = _words(
    "thank thanks thx cheers goodbye bye danke dank* tschüss merci adieu gracias adiós obrigad* tchau grazie ciao",
    "bedankt tack takk tak kiitos dzięk* dziek* děkuj* díky hvala köszön* mulțumesc спасибо дякую благодаря* teşekkür*",
    "sağol cảm terima makasih ευχαριστ* धन्यवाद शुक्रिया شكر* תודה",
    dense="谢谢|謝謝|多谢|再见|ありがと|감사|고마|ขอบคุณ",
)
says_done: Final = _words(
    "done finished completed complete ok okay ready fixed sorted",
    "fertig erledigt gemacht abgeschlossen fait terminé faite hecho",
    "listo terminado feito pronto concluído fatto finito",
    "klaar gedaan klart färdig færdig ferdig valmis hotovo gotowe",
    "zrobione kész готово сделано зроблено tamam bitti yapıldı",
    "xong selesai beres έτοιμο हो तम تم בוצע",
    dense="完成|好了|完了|できました|しました|완료|했습니다|됐습니다|เสร็จ",
)
announces: Final = re.compile(
    r"\b(?:let me(?! know)|i['’]ll|i will|i am going to|i['’]m going to|"
    r"ich werde|lass mich|lassen sie mich|je vais|laissez-moi|"
    r"voy a|déjame|vou |deixe-me|adesso |sto per|ik ga|ik zal|jag ska|jag kommer|jeg vil|jeg skal|сейчас|зараз|hemen)"
    r"|いたします|我来|我这就|하겠습니다",
).search
asks_to_wait: Final = re.compile(
    r"\b(?:one moment|one second|hold on|hang on|just a (?:moment|second)|"
    r"please wait|right away|einen moment|moment bitte|sofort|"
    r"un instant|tout de suite|un momento|enseguida|um momento|un attimo|"
    r"subito|een moment|ett ögonblick|et øjeblikk?|zaraz|chwil\w+|"
    r"минут\w+|bir dakika)|お待ち|すぐに|请稍|稍等|马上|잠시만",
).search
_COURTESY = re.compile(
    r"anything else|something else|else (?:i|can|do)|further|sonst|noch (?:etwas|"
    r"was)|weiter|autre chose|d['’]autre|algo más|alguna otra|"
    r"más en|mais alg|outra coisa|altro|nog iets|verder|annat|annet|"
    r"andet|noget mere|muuta|jeszcze|ещё|еще|щось|başka|další|"
    r"gì khác|lain|其他|其它|别的|還有|还有|他に|ほかに|다른|더 도와|อะไรอีก|κάτι άλλο",
)


def without_courtesy(text: str) -> str:
    """Return a text without its closing "Is there anything else?", which asks for nothing."""
    if not asks(text):
        return text
    parts = _SENTENCE_END.split(text)
    kept = [part for part in parts if part and not (asks(part) and _COURTESY.search(fold(part)))]
    return " ".join(kept) if len(kept) < len(parts) else text


def size(text: str) -> int:
    """Return the length of a text in letters of an alphabet; a character of a dense script counts three."""
    return len(text) if text.isascii() else len(text) + _DENSE_WORTH * len(_DENSE.findall(text))


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, folded, each with its end mark."""
    return [part for part in _SENTENCE_END.split(fold(text)) if part and part.strip()]
