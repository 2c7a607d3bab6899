"""How other languages say that nothing is there: single words, and sentences with the thing that is not there as `what`.

English, Chinese, Japanese and Korean, and the larger languages of Europe, are in `vlrl.answers.nones`. Each language has few
forms on purpose: a sentence that is not here is not read.
"""

from __future__ import annotations

import re

BARE = frozenset(
    word.casefold()
    for word in ["nothing", "none found", "nothing found", "no objects", "no match", "no matches", "zero", "nope, none",
     "沒有", "什么都没有", "未检测到", "未发现", "空列表", "検出なし", "該当なし",
     "لا شيء", "لا يوجد", "لا توجد", "لا أحد", "غير موجود", "कोई नहीं", "कुछ नहीं", "कुछ भी नहीं", "yok", "hiçbiri",
     "hiçbir şey", "không có", "không có gì", "không", "tidak ada", "tidak ditemukan", "nihil", "brak", "żaden", "nic",
     "nie ma",      "ไม่มี", "ไม่พบ", "ei mitään", "ei ole", "ei yhtään", "ingen", "inga", "inget", "ingenting",
     "ingen funnet", "žádný", "žádná",
     "žádné", "nenalezeno", "δεν υπάρχει", "δεν υπάρχουν", "κανένα", "κανένας", "τίποτα", "אין", "כלום", "שום דבר", "לא נמצא",
     "niets", "niemand", "ничто", "отсутствует", "nada encontrado", "sin resultados", "pas trouvé", "немає", "nimic", "semmi",
     "nincs", "жодного", "intet", "nichts gefunden", "keine objekte", "rien trouvé"]
)  # fmt: skip
_PATTERNS = (
    r"there (?:is|was) (?:nothing|none)(?: (?:to (?:detect|find|see|report|box|label|mark)|here|there|visible|present|found"
    r"))(?: (?:in|on) (?:the|this) (?:image|picture|photo|scene))?",
    r"(?:no|zero|0) (?:visible )?(?:instances?|examples?|occurrences?|signs?|objects?|sightings?) of (?:an? |any |the )?"
    r"(?P<what>.+?)(?: (?:is|are|was|were|can be|could be))?(?: (?:present|visible|found|detected|seen|there))?"
    r"(?: (?:in|on) (?:the|this) (?:image|picture|photo|scene))?",
    r"(?:图(?:像|片)?中)?(?:也)?沒有(?:檢測到|發現)?(?P<what>.+)",
    r"(?:也|并)?(?:没有|无)(?P<what>.+)",
    # Portuguese, Spanish, French, German, Russian: more than one thing, and other orders
    r"(?:na imagem )?n[ãa]o (?:há|existem?|vejo|foram? encontrad[oa]s?)(?: nenhuma?| qualquer)? (?P<what>.+?)"
    r"(?: (?:na|nesta) (?:imagem|foto|cena))?",
    r"(?:en la imagen )?no hay (?:ningun[oa]?s? |ni )?(?P<what>.+?)(?: en la (?:imagen|foto))?",
    r"il n'y a ni (?P<what>.+? ni .+?)(?: (?:dans|sur) l'image)?",
    r"(?:es gibt |ich sehe )?(?:weder )(?P<what>.+? noch .+?)(?: im bild)?",
    r"(?:es gibt |ich sehe )?keine?[nrs]? (?P<what>.+? und keine?[nrs]? .+?)(?: im bild)?",
    r"(?P<what>.+?) (?:на (?:изображении|фото|картинке) )?(?:нет|отсутству(?:ет|ют)|не обнаружен[оыа]?|не найден[оыа]?)"
    r"(?: на (?:изображении|фото|картинке))?",
    r"(?:на (?:этом )?(?:изображении|фото|картинке) )?(?:нет|отсутству(?:ет|ют)) (?:ни )?(?P<what>.+?)",
    # Arabic, Hindi, Turkish, Vietnamese, Indonesian
    r"(?:في الصورة )?لا (?:يوجد|توجد|أرى) (?:أي )?(?P<what>.+?)(?: في (?:هذه )?الصورة)?",
    r"(?:(?:इस )?(?:छवि|चित्र|तस्वीर|फोटो) में )?(?:कोई )?(?P<what>.+?) नहीं (?:है|हैं|मिला|मिले|दिख रहा है)?",
    r"(?:(?:bu )?(?:resimde|görüntüde|görselde|fotoğrafta) )?(?:hiç(?:bir)? )?(?P<what>.+?) (?:yok|bulunamadı|yoktur)",
    r"(?:trong (?:hình|ảnh|bức ảnh)(?: này)? )?không (?:có|thấy|tìm thấy)(?: bất kỳ)? (?P<what>.+?)(?: nào)?"
    r"(?: trong (?:hình|ảnh|bức ảnh)(?: này)?)?",
    r"(?:tidak (?:ada|ditemukan|terdapat)) (?P<what>.+?)(?: (?:di|dalam|pada) (?:dalam )?gambar(?: ini)?)?",
    # Polish, Thai, Finnish, Swedish, Danish, Norwegian, Czech, Greek, Hebrew, Dutch
    r"(?:na (?:tym )?(?:obrazie|zdjęciu) )?(?:nie ma|brak) (?:żadn\w+ )?(?P<what>.+?)(?: na (?:obrazie|zdjęciu))?",
    r"(?:ใน(?:รูป|ภาพ)(?:นี้)?)?ไม่(?:มี|พบ)(?P<what>.+?)(?:ใน(?:รูป|ภาพ)(?:นี้)?)?",
    r"(?:kuvassa )?ei (?:ole )?(?:yhtään )?(?P<what>.+?)(?: kuvassa)?",
    r"(?:det (?:finns|er|är) |der er |jag ser |jeg ser )?(?:ingen|inga|inget|ikke noen|ikke nogen) (?P<what>.+?)"
    r"(?: (?:i|på) (?:bilden|bildet|billedet))?",
    r"(?:na (?:tomto )?(?:obrázku|snímku) )?(?:není|nejsou) (?:žádn\w+ )?(?P<what>.+?)(?: na obrázku)?",
    r"(?:στην εικόνα )?δεν (?:υπάρχ(?:ει|ουν)|βλέπω) (?:κανέν\w+ |κανεί\w+ )?(?P<what>.+?)(?: στην εικόνα)?",
    r"(?:בתמונה )?(?:אין|לא נמצא[הו]?) (?:שום )?(?P<what>.+?)(?: בתמונה)?",
    r"er (?:is|zijn|staat|staan) geen (?P<what>.+?)(?: (?:in|op) (?:de|deze) (?:afbeelding|foto))?",
)
STATEMENTS = tuple(map(re.compile, _PATTERNS))

THINGS = {
    category: tuple(words.casefold().split())
    for category, words in {
        "dog": "cão cães cachorro собаки собаку собаками كلب كلاب कुत्ता कुत्ते köpek köpekler chó anjing pies psa psów สุนัข หมา"
        " koira koiraa koiria hundar hunden hunder pes psi psů σκύλος σκύλοι σκύλο σκυλί כלב כלבים honden hond",
        "cat": "кошки кошку кот котов قطة قطط قط बिल्ली बिल्लियाँ kedi kediler mèo kucing kot kota kotów แมว kissa kissaa kissoja"
        " katt katter kat katte kočka kočky koček γάτα γάτες חתול חתולים katten 貓",
        "person": "люди людей человека شخص أشخاص व्यक्ति लोग insan kişi người orang osoba osoby osób ludzi คน บุคคล ihminen"
        " ihmistä ihmisiä persona personer människa människor lidé lidí άνθρωπος άνθρωποι άτομο"
        " אדם אנשים persoon personen mensen",
        "car": "машина машины автомобиль автомобилей автомобиля سيارة سيارات कार गाड़ी araba arabalar xe ô-tô mobil samochód"
        " samochodu samochodów รถ รถยนต์ auton autoa autoja bil bilar biler auta αυτοκίνητο αυτοκίνητα מכונית מכוניות auto's",
        "bird": "птицы طائر طيور पक्षी चिड़िया kuş kuşlar chim burung ptak ptaka ptaków นก lintu lintua lintuja fågel fåglar fugl"
        " fugle pták ptáka ptáků πουλί πουλιά ציפור ציפורים vogels",
        "cow": "коровы بقرة أبقار गाय inek inekler bò sapi krowa krowy krów วัว lehmä lehmää ko kor kráva krávy αγελάδα"
        " αγελάδες פרה",
        "horse": "лошади حصان أحصنة خيول घोड़ा घोड़े at atlar ngựa kuda koń konia koni ม้า hevonen hevosta häst hästar hest heste"
        " kůň koně άλογο άλογα סוס סוסים paard paarden",
        "bicycle": "велосипеда велосипедов دراجة साइकिल bisiklet bisikletler sepeda rower roweru rowerów จักรยาน polkupyörä"
        " cykel cyklar kolo ποδήλατο אופניים fiets fietsen",
    }.items()
}  # fmt: skip
"""More words for the commonest categories; those of other languages are in `vlrl.answers.category_words`."""
