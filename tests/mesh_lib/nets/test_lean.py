"""Less memory and fewer layers, the same numbers."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mesh_lib.nets.lean import folded, rerun
from mesh_lib.nets.lixel_heads import Deconvolution, upsampler
from mesh_lib.nets.resnet import Bottleneck, ResNet


def test_a_rerun_block_has_the_same_values_gradients_and_running_statistics() -> None:
    torch.manual_seed(0)
    plain = Bottleneck(16, 8, 1)
    lean = copy.deepcopy(plain)
    x = torch.randn(4, 16, 6, 6)
    seen = []
    for net, run in ((plain, plain), (lean, lambda x: rerun(lean, x))):
        wanted = x.clone().requires_grad_()
        y = run(wanted)
        y.square().sum().backward()
        seen.append([y.detach(), wanted.grad, *(p.grad for p in net.parameters()), *net.buffers()])
    for a, b in zip(*seen, strict=True):
        assert a is not None and torch.equal(a, b)
    assert lean.bn1.num_batches_tracked == 1 and lean.bn1.momentum == 0.1


def test_only_inputs_are_kept() -> None:
    """Bytes that autograd holds on to, counted where it packs them."""
    block, x = Bottleneck(16, 8, 1), torch.randn(2, 16, 12, 12, requires_grad=True)
    kept = []
    for run in (block, lambda x: rerun(block, x)):
        held: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            run(x)
        kept.append(sum(held))
    assert kept[1] <= x.numel() < kept[0] / 3


def test_without_gradients_nothing_is_recomputed() -> None:
    calls = []
    net = nn.Linear(2, 2)
    net.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        rerun(net, torch.ones(1, 2))
    rerun(net.eval(), torch.ones(1, 2)).sum().backward()
    assert len(calls) == 2


def test_folding_changes_no_answer_and_leaves_the_original_alone() -> None:
    torch.manual_seed(0)
    nets = {
        "ResNet": (ResNet(18), torch.rand(2, 3, 32, 32)),
        "deconvolutions": (upsampler(8, 4, 3), torch.rand(2, 8, 12, 12)),
        "1D deconvolutions": (upsampler(8, 4, 2, dims=1), torch.rand(2, 8, 6)),
        "linear": (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU()), torch.rand(9, 5)),
    }
    for name, (net, x) in nets.items():
        net(x)  # running statistics that are not trivial
        net.eval()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        quick = folded(net)
        with torch.no_grad():
            expected, found = net(x), quick(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item(), msg=name)
        assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in quick.modules()), name
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), name


def test_a_deconvolution_over_few_positions_is_a_matrix_product_gradients_too() -> None:
    torch.manual_seed(0)
    ours, plain = Deconvolution(6, 5), nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1, bias=False)
    nn.init.normal_(ours.weight)
    plain.load_state_dict(ours.state_dict())
    for size in ((8, 8), (3, 5), (10, 16)):  # the last is above the limit: torch's own
        x = torch.randn(2, 6, *size)
        seen = []
        for net in (ours, plain):
            net.zero_grad()
            wanted = x.clone().requires_grad_()
            y = net(wanted)
            (y * torch.arange(y.numel()).view_as(y).sin()).sum().backward()
            assert wanted.grad is not None and net.weight.grad is not None
            seen.append((y.detach(), wanted.grad, net.weight.grad.clone()))
        for a, b in zip(*seen, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
