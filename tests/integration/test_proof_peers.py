"""The peers of the proof benchmark do the work they are measured for: honest claims pass, others do not."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from tooling.studies.benchmarks import proof_peers


def states(seed: int) -> torch.Tensor:
    return torch.randn(9, 256, generator=torch.Generator().manual_seed(seed))


def test_top_k_sketches_accept_the_states_they_were_made_of_and_no_others() -> None:
    coefficients = proof_peers.topk_prime_coefficients(torch.Generator().manual_seed(0))
    claimed = proof_peers.topk_prime_commit(states(1), coefficients)
    assert claimed.indices.shape == (9, proof_peers.TOP_K)
    assert 0 <= int(claimed.values.min()) <= int(claimed.values.max()) < proof_peers.PRIME
    proof_peers.topk_prime_verify(states(1), claimed, coefficients)
    with pytest.raises(RuntimeError):
        proof_peers.topk_prime_verify(states(2), claimed, coefficients)


def test_token_difr_samples_from_the_softmax_and_only_the_sampled_token_has_no_distance() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    drawn = np.zeros(4)
    for seed in range(4000):
        distances = [proof_peers.token_difr_verify(logits, seed, token, 1.0) for token in range(4)]
        assert min(distances) == 0 < sorted(distances)[1]
        drawn[int(np.argmin(distances))] += 1
    assert np.abs(drawn / 4000 - torch.softmax(logits, 0).numpy()).max() < 0.03


def test_the_inverse_cdf_picks_each_token_on_its_share_of_the_unit_interval() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    picked = [proof_peers.inverse_cdf_verify(logits, torch.tensor([u])) for u in np.linspace(0.0005, 0.9995, 1000)]
    shares = np.bincount(picked, minlength=4) / 1000
    assert np.abs(shares - torch.softmax(logits, 0).numpy()).max() < 0.002


def test_a_peer_that_is_not_installed_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> object:
        raise ImportError(f"No module named {name}")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert proof_peers.toploc() is None
    assert "toploc" in capsys.readouterr().err
