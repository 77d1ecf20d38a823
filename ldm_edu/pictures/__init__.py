"""Tensors as pictures: one, a captioned sheet of many, a film of how they came to be; and files read as tensors.

Inside the package a picture is a float tensor (3, H, W) in [-1, 1], RGB; here it becomes a Pillow image, and back.
Training, ``--init`` and masks read files by one reader, `ldm_edu.pictures.reading`.
"""

from ldm_edu.pictures.kinds import SUFFIXES as SUFFIXES
from ldm_edu.pictures.masks import open_mask as open_mask
from ldm_edu.pictures.reading import Source as Source
from ldm_edu.pictures.reading import open_picture as open_picture
from ldm_edu.pictures.reading import picture_size as picture_size
from ldm_edu.pictures.saving import read_metadata as read_metadata
from ldm_edu.pictures.saving import save_gif as save_gif
from ldm_edu.pictures.saving import save_png as save_png
from ldm_edu.pictures.sheets import GAP as GAP
from ldm_edu.pictures.sheets import PAPER as PAPER
from ldm_edu.pictures.sheets import sheet as sheet
from ldm_edu.pictures.tensors import clip_input as clip_input
from ldm_edu.pictures.tensors import fit as fit
from ldm_edu.pictures.tensors import fitting_size as fitting_size
from ldm_edu.pictures.tensors import from_pil as from_pil
from ldm_edu.pictures.tensors import to_pil as to_pil
