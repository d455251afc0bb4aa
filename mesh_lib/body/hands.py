"""MANO's hands (Romero et al., 2017): a file is of one side, and its poses are relative to a mean pose.

As everywhere in the field `flat_hand_mean` is False: a pose of zeros is the mean of the scans, slightly bent. The mean
is added to *rotation vectors*, joint by joint, as MANO's own code, smplx and manopth do; the wrist has none.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.files import Body
from mesh_lib.body.joints import MANO16
from mesh_lib.geometry.rotations import rotmat_to_rotvec, rotvec_to_rotmat


def is_hand(body: Body) -> bool:
    """Whether a body is MANO's: a single hand."""
    return len(body.parents) == len(MANO16)


def check_right_hand(body: Body) -> None:
    """Raises ValueError for a hand that is a left one, or whose file has lost the mean pose."""
    if body.hands_mean is None:
        raise ValueError(
            f"hand {body.name} has no hands_mean, the pose that poses of MANO are relative to\n"
            "  fix: pass MANO_RIGHT.pkl as its owners ship it (https://mano.is.tue.mpg.de)"
        )
    at_m = body.J_regressor @ body.v_template
    # MANO's hands lie as on the body they are cut from, arms held out: a right hand's fingers point to -x.
    if at_m[MANO16.index("right_middle1"), 0] >= at_m[MANO16.index("right_wrist"), 0]:
        raise ValueError(
            f"hand {body.name} is a left one: networks, samples and scores of hands are those of right hands\n"
            "  fix: pass MANO_RIGHT"
        )


def mean_pose(body: Body) -> Float[np.ndarray, "16 3"]:
    """Axis-angle of all of MANO's joints in its mean pose, zero for the wrist; all zero where a file has none."""
    fingers = np.zeros((len(MANO16) - 1, 3)) if body.hands_mean is None else body.hands_mean
    return np.concatenate([np.zeros((1, 3)), fingers])


def from_mean(
    rotmats: Float[Tensor, "*batch 16 3 3"], mean_rotvec: Float[Tensor, "16 3"]
) -> Float[Tensor, "*batch 16 3 3"]:
    """Rotations as MANO's parameters say them to those that pose its mesh: rotation vectors plus the mean's."""
    fingers = rotvec_to_rotmat(rotmat_to_rotvec(rotmats[..., 1:, :, :]) + mean_rotvec[1:])
    return torch.cat([rotmats[..., :1, :, :], fingers], dim=-3)
