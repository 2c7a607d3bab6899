"""Words for common categories in other languages, so that "没有狗" can be held against the category "dog". Short on purpose: a
word that is not here is not recognised, and what it says is then not read."""

WORDS: dict[str, tuple[str, ...]] = {
    category: tuple(words.split())
    for category, words in {
        "person": "人 人物 行人 人間 사람 mensch menschen personen persona personas personne personnes pessoa pessoas человек",
        "man": "男人 男子 男性 男の人 남자 mann männer hombre hombres homme hommes uomo uomini homem homens мужчина",
        "woman": "女人 女子 女性 女の人 여자 frau frauen mujer mujeres femme femmes donna donne mulher mulheres женщина",
        "dog": "狗 小狗 犬 イヌ 개 강아지 hund hunde perro perros chien chiens cane cani cachorro cachorros собака собак",
        "cat": "猫 小猫 ネコ 고양이 katze katzen gato gatos chat chats gatto gatti кошка кошек",
        "bird": "鸟 鸟类 鳥 とり 새 vogel vögel pájaro pájaros ave aves oiseau oiseaux uccello uccelli pássaro птица птиц",
        "horse": "马 馬 うま 말 pferd pferde caballo caballos cheval chevaux cavallo cavalli cavalo cavalos лошадь лошадей",
        "cow": "牛 奶牛 うし 소 kuh kühe vaca vacas vache vaches mucca mucche корова коров",
        "sheep": "羊 绵羊 ひつじ 양 schaf schafe oveja ovejas mouton moutons pecora pecore ovelha ovelhas овца овец",
        "car": "汽车 车 轿车 小汽车 车辆 車 自動車 자동차 차 auto autos coche coches voiture voitures carro carros машин",
        "bus": "公交车 公共汽车 巴士 バス 버스 busse autobús autobuses autocar ônibus автобус",
        "truck": "卡车 货车 トラック 트럭 lastwagen lkw camión camiones camion caminhão грузовик",
        "bicycle": "自行车 单车 自転車 자전거 fahrrad fahrräder bicicleta bicicletas vélo vélos bicicletta велосипед",
        "motorcycle": "摩托车 バイク オートバイ 오토바이 motorrad motorräder motocicleta moto motos мотоцикл",
        "train": "火车 列车 電車 列車 기차 zug züge tren trenes trains treno trem поезд",
        "boat": "船 小船 ボート 배 boot boote barco barcos bateau bateaux barca лодка",
        "airplane": "飞机 飛行機 비행기 flugzeug flugzeuge avión aviones avion avions aereo avião самолет",
        "chair": "椅子 いす 의자 stuhl stühle silla sillas chaise chaises sedia sedie cadeira cadeiras стул",
        "table": "桌子 テーブル 机 탁자 테이블 tisch tische mesa mesas tables tavolo tavoli стол",
        "bottle": "瓶子 瓶 ボトル 병 flasche flaschen botella botellas bouteille bouteilles bottiglia garrafa бутылка",
        "tree": "树 树木 木 나무 baum bäume árbol árboles arbre arbres albero alberi árvore árvores дерево",
        "traffic light": "红绿灯 交通灯 信号灯 信号機 信号 신호등 ampel ampeln semáforo semáforos feux semaforo светофор",
        "circle": "圆 圆形 円 원 kreis kreise círculo círculos cercle cercles cerchio круг",
        "square": "正方形 方形 정사각형 quadrat quadrate cuadrado cuadrados carré carrés quadrato квадрат",
        "triangle": "三角形 삼각형 dreieck dreiecke triángulo triángulos triangles triangolo треугольник",
    }.items()
}
