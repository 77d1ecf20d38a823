"""All items of the course, lesson by lesson. A new lesson's items are a new file and one line here."""

from ldm_edu.grading.item import Item
from ldm_edu.grading.items import l01

ITEMS: dict[str, Item] = {item.id: item for lesson in (l01,) for item in lesson.ITEMS}
