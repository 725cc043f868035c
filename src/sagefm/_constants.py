"""Keys written to AnnData and defaults shared by the verbs."""

from __future__ import annotations

from typing import Final

#: Spots in a neighborhood, the center included (Zhan et al. 2026).
N_SPOTS: Final = 15

SPATIAL_KEY: Final = "spatial"
NEIGHBORS_KEY: Final = "sagefm"
EMBEDDING_KEY: Final = "X_sagefm"
IMPUTED_KEY: Final = "sagefm_imputed"
PERTURB_KEY: Final = "sagefm_perturb"
NETWORK_KEY: Final = "sagefm_network"
ANNOTATION_KEY: Final = "sagefm_label"
DOMAIN_KEY: Final = "sagefm_domain"
#: The smoothed components that domains are found in.
DOMAIN_BASIS: Final = "X_sagefm_domains"
#: ``uns`` entry that holds parameters and provenance of what was written elsewhere.
UNS_KEY: Final = "sagefm"

#: Label of a spot that no class is probable enough for.
UNSURE: Final = "unsure"
#: Names that stand for the lack of a label, beside missing values.
UNLABELLED: Final = ("undetermined", "unlabelled", UNSURE, "nan", "")

#: Least share of the vocabulary that a table must hold.
MIN_COVERAGE: Final = 0.10
#: Genes of the vocabulary that are enough all the same: those of a panel.
MIN_GENES: Final = 200
#: Share of the vocabulary below which a warning says so.
LOW_COVERAGE: Final = 0.20

#: Folds that genes are hidden in: more than there are genes.
MAX_FOLDS: Final = 1_000_000

#: Counts added to every gene's total in a section's profile: no rate is zero.
PROFILE_PRIOR: Final = 0.5

#: Files of a checkpoint folder.
WEIGHTS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "config.json"
#: Model card, where a checkpoint is shared.
CARD_FILE: Final = "README.md"

#: Rows made dense at a time: a few hundred keep the product near the machine's peak
#: while a block of 14,558 genes is 30 MB.
BLOCK_ROWS: Final = 512
