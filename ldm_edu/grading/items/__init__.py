"""All items of the course, lesson by lesson. A new lesson's items are a new file and one line here."""

from ldm_edu.grading.item import Item
from ldm_edu.grading.items import l01, l02, l03, l04, l05, l06, l07, l08

LESSONS = (l01, l02, l03, l04, l05, l06, l07, l08)
ITEMS: dict[str, Item] = {item.id: item for lesson in LESSONS for item in lesson.ITEMS}
