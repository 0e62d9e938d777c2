from .checkpoints import Checkpoint as Checkpoint
from .checkpoints import newest_checkpoint as newest_checkpoint
from .finetune import Finetune as Finetune
from .sampler import GlobalBatches as GlobalBatches
from .trainer import AdapterTrainer as AdapterTrainer
from .trainer import BatchCollator as BatchCollator
