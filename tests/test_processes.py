"""Training in processes of its own: killed and resumed, and in parallel (DDP)."""

import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from gendae.data import Digits

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


DDP = """
    import sys, torch
    from pytorch_lightning import Trainer, seed_everything
    from gendae import Digits, ParzenLogLikelihood, VariationalEMRule, deep_autoencoder
    from gendae.callbacks import ParzenMonitor

    class Checked(VariationalEMRule):
        def on_validation_epoch_end(self):
            data = self.trainer.datamodule
            metric = ParzenLogLikelihood(data.split("train").x[:200], sigma=0.3)
            for (x, *_) in data.val_dataloader():
                metric.update(x)
            noise = torch.randn(3, generator=self.generator)
            torch.save({"weights": torch.cat([p.detach().flatten() for p in self.stack.parameters()]),
                        "prior": self.stack.prior.mean, "noise": noise, "metric": metric.compute(),
                        "score": self.trainer.callback_metrics["val/parzen_ll"]},
                       f"{sys.argv[1]}/rank{self.global_rank}.pt")

    if __name__ == "__main__":
        seed_everything(0)
        rule = Checked(deep_autoencoder([64, 20, 8]), warmup=5)
        Trainer(max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
                num_sanity_val_steps=0, accelerator="cpu", devices=2, strategy="ddp",
                enable_checkpointing=False, default_root_dir=sys.argv[1],
                callbacks=[ParzenMonitor(200)]).fit(rule, Digits(batch_size=50))
"""


def test_two_processes_end_with_equal_weights_prior_and_scores(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(DDP))
    done = subprocess.run([sys.executable, "-W", "ignore", str(script), str(tmp_path)],
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    a, b = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for name in ("weights", "prior", "metric", "score"):
        assert torch.equal(a[name], b[name]), name
    assert not torch.equal(a["noise"], b["noise"])
    from gendae.metrics import parzen_log_prob

    data = Digits()
    alone = parzen_log_prob(data.split("valid").x[:298], data.split("train").x[:200], 0.3).mean()
    assert a["metric"].item() == pytest.approx(alone.item(), abs=1e-9)
