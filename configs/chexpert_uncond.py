"""CheXpert at 128 pixels without conditions: the arm that cannot be guided.

Paper: Dar et al. 2024, arXiv 2402.01054 (unconditional models memorize patients too).
Command: memjax train --config=chexpert_uncond --config.data.root=/data/CheXpert-v1.0-small \\
    --workdir=runs/chexpert_uncond
Time: as chexpert_cfg; not yet measured by us.
Expect: the same images as chexpert_cfg with the condition always dropped. memjax audit compares
images from seeds with the training images; what concerns a prompt is left out. It can serve as the
companion of a model trained without a null condition: memjax audit, detect or explain with
--null=companion --companion=THIS_RUN.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the configuration of ``chexpert_cfg`` with the condition always dropped."""
    file = Path(__file__).with_name("chexpert_cfg.py")
    spec = importlib.util.spec_from_file_location("chexpert_cfg", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.train.cond_dropout = 1.0
    return config
