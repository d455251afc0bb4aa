"""Every dataset that can be ingested, by the name that the command line knows it by."""

from __future__ import annotations

from mesh_lib.datasets.coco import Coco
from mesh_lib.datasets.coco_wholebody import CocoWholeBody
from mesh_lib.datasets.crowdpose import CrowdPose
from mesh_lib.datasets.ehf import Ehf
from mesh_lib.datasets.ffhq import Ffhq
from mesh_lib.datasets.folder import Folder
from mesh_lib.datasets.freihand import FreiHand
from mesh_lib.datasets.human36m import Human36m
from mesh_lib.datasets.instavariety import InstaVariety
from mesh_lib.datasets.interhand import InterHand
from mesh_lib.datasets.lspet import Lspet
from mesh_lib.datasets.mpi_inf_3dhp import MpiInf3dhp
from mesh_lib.datasets.mpii import Mpii
from mesh_lib.datasets.muco import Muco
from mesh_lib.datasets.mupots import Mupots
from mesh_lib.datasets.people import Reader
from mesh_lib.datasets.pw3d import Pw3d

READERS: dict[str, type[Reader]] = {
    "folder": Folder,
    "coco": Coco,
    "coco_wholebody": CocoWholeBody,
    "crowdpose": CrowdPose,
    "mpii": Mpii,
    "lspet": Lspet,
    "instavariety": InstaVariety,
    "human36m": Human36m,
    "mpi_inf_3dhp": MpiInf3dhp,
    "muco": Muco,
    "3dpw": Pw3d,
    "mupots": Mupots,
    "ehf": Ehf,
    "freihand": FreiHand,
    "interhand": InterHand,
    "ffhq": Ffhq,
}
