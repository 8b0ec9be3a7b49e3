"""Training in a process of its own, killed and resumed; tests of several processes are in test_ddp_*.py."""

import signal
import subprocess
import sys
import textwrap

import pytest
import torch

RESUME = """
    import os, signal, sys, torch
    from pytorch_lightning import Callback, Trainer, seed_everything
    from pytorch_lightning.callbacks import ModelCheckpoint
    from gendae import Digits, VariationalEMRule, deep_autoencoder
    folder, kill, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "resume"
    seed_everything(99 if resume else 1)
    class Kill(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == kill:
                os.kill(os.getpid(), signal.SIGKILL)
    rule = VariationalEMRule(deep_autoencoder([64, 20, 8]), warmup=10)
    keep = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)
    t = Trainer(max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
                num_sanity_val_steps=0, callbacks=[keep, Kill()], accelerator="cpu")
    t.fit(rule, Digits(batch_size=300), ckpt_path=folder + "/last.ckpt" if resume else None)
    torch.save([p.detach() for p in rule.stack.parameters()], folder + "/weights.pt")
"""


def run_script(script, *arguments, check=True):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), *arguments],
                          capture_output=True, text=True, check=check, timeout=300)


@pytest.mark.parametrize("kill", [2, 5])
def test_kill_9_and_resume_is_bit_exact(tmp_path, kill):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    run_script(RESUME, str(whole), "-1", "new")
    killed = run_script(RESUME, str(broken), str(kill), "new", check=False)
    assert killed.returncode == -signal.SIGKILL
    run_script(RESUME, str(broken), "-1", "resume")
    a, b = (torch.load(folder / "weights.pt") for folder in (whole, broken))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
