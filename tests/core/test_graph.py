import pytest
import torch

from congruence.core.graph import differentiable_once

SENTENCE = r"^`cubes` must be differentiated once, got a second time: y is a constant\.$"


def cubes(x):
    """x³ with its gradient 3 x², in which one x is a constant: right once."""
    y = x * 1
    differentiable_once("cubes", "y is a constant", y)
    return (1.5 * y.square() * y.detach() - 0.5 * y.detach().pow(3)).sum()


def test_the_first_derivative_is_untouched():
    x = torch.tensor([3.0, -2.0], requires_grad=True)
    for graph in (False, True):
        assert torch.autograd.grad(cubes(x), x, create_graph=graph)[0].tolist() == [27.0, 12.0]
    assert torch.func.grad(cubes)(x.detach()).tolist() == [27.0, 12.0]
    assert torch.vmap(torch.func.grad(cubes))(x.detach()[:, None]).tolist() == [[27.0], [12.0]]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, in forward mode
@pytest.mark.parametrize("by", ["backward", "hessian", "jvp of grad", "grad of grad"])
def test_the_second_is_refused_whichever_way_it_is_asked_for(by):
    x = torch.tensor([3.0, -2.0], requires_grad=True)
    plain = x.detach()
    ways = {
        "backward": lambda: torch.autograd.grad(cubes(x), x, create_graph=True)[0].sum().backward(),
        "hessian": lambda: torch.func.hessian(cubes)(plain),
        "jvp of grad": lambda: torch.func.jvp(torch.func.grad(cubes), (plain,), (plain,)),
        "grad of grad": lambda: torch.func.grad(lambda z: torch.func.grad(cubes)(z).sum())(plain),
    }
    with pytest.raises(ValueError, match=SENTENCE):
        ways[by]()


def test_what_needs_no_gradient_gets_no_hook():
    assert cubes(torch.ones(2)).item() == 2.0
