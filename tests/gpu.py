"""What a test of a GPU needs: one, or a reason why it is not run."""

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU on this machine")
CUDA = torch.device("cuda")
