"""Pascal VOC folders in the making, for the tests of the converters."""

from PIL import Image

from data_prep import voc
from vlrl.data.sample_files import read_samples

OBJECT = """
  <object>
    <name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>{difficult}</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
    {extra}
  </object>"""


def save_image(path, size=(64, 48), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path, **options)


def voc_object(name, box, difficult=0, extra=""):
    return OBJECT.format(name=name, box=box, difficult=difficult, extra=extra)


class VocFolder:
    """A Pascal VOC folder in the making."""

    def __init__(self, root):
        self.root = root
        self.out = root.parent / "out" / "samples.jsonl"
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)

    def add(self, key, *objects, size=(64, 48), stated=None, image=True, filename=None):
        width, height = stated or size
        if image:
            save_image(self.root / f"JPEGImages/{key}.jpg", size)
        (self.root / f"Annotations/{key}.xml").write_text(
            f"<annotation><folder>VOC2012</folder><filename>{filename or key + '.jpg'}</filename>"
            f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
        )

    def run(self, *options):
        code = voc.main(["--root", str(self.root), "--out", str(self.out), "--max_skipped", "1", *options])
        return read_samples(self.out) if code == 0 else code

    def add_pets(self):
        """Twelve images: dogs in all, cats in every second, a bird in the first three."""
        for i in range(12):
            objects = [voc_object("dog", (1, 1, 20 + i, 20))]
            objects += [voc_object("cat", (30, 5, 50, 30))] * (i % 2 == 0)
            objects += [voc_object("bird", (5, 25, 15, 45))] * (i < 3)
            self.add(f"2008_{i:06}", *objects)
