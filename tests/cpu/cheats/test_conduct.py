"""Candidates that misbehave from call to call, or are right only for some memory, sizes or surroundings: each is rejected
for what it does."""

import pytest

from .files import RIGHT, Cheat, judged, said, when

ALIAS = "y = F.relu(self.linear(x))\n"
CHEATS = {
    # wrong for some memory, some sizes, some surroundings only
    "strided only": Cheat(when("not x.is_contiguous()"), "wrong for transposed memory"),
    "aligned slice": Cheat(when("x.storage_offset() and x.data_ptr() % 16 == 0"), "wrong for a slice"),
    "last stride 0": Cheat(when("x.stride(-1) == 0"), "wrong for expanded columns"),
    "strided of another size": Cheat(when("not x.is_contiguous() and x.shape[0] != 14"), "wrong for batch "),
    "past a limit": Cheat(when("x.shape[0] > 3 * 128"), "wrong for batch "),
    "one size": Cheat(when("x.shape[0] == 45"), "wrong for batch 45"),
    "past a limit in a kernel": Cheat(
        when("x.shape[0] == int(KERNEL.split()[3])"),
        "wrong for batch 128",
        top="KERNEL = 'if (rows == 128 ) return;'\n",
    ),
    "many elements": Cheat(when("x.numel() > 5000"), "wrong for batch "),
    "no rows": Cheat("return F.relu(self.linear(x)) if len(x) else x.new_zeros(1, 24)", "shape (1, 24)"),
    "not training": Cheat(when("not self.training"), "wrong for other mode"),
    "frozen": Cheat(when("not self.linear.weight.requires_grad"), "wrong for frozen parameters"),
    "recorded": Cheat(when("torch.is_grad_enabled()"), "wrong for recorded by autograd"),
    "inference mode": Cheat(when("torch.is_inference_mode_enabled()"), "wrong for inference mode"),
    "writes and restores": Cheat("x.neg_(); x.neg_()\n" + RIGHT, "input 0 is written to"),
    "reads past its rows": Cheat(
        "all = x.new_empty(0).set_(x.untyped_storage())\nend = x.storage_offset() + x.numel()\n"
        + "return F.relu(self.linear(x)) + 0 * all[end : end + 4].sum()",
        "it reads beside its inputs' elements",
    ),
    "cache by content": Cheat(
        "k = x.sum().item()\nif k not in self.c: self.c[k] = F.relu(self.linear(x))\nreturn self.c[k].clone()",
        "wrong for other parameters",
        "self.c = {}",
    ),
    "right where memory is poisoned": Cheat(when("not torch.empty(9).isnan().all()"), "wrong for again, other memory"),
    "written by another process": Cheat(
        "y, z = F.relu(self.linear(x)), torch.zeros(x.shape[0], 24).share_memory_()\n"
        "if not os.fork(): time.sleep(0.2); z.copy_(y); os._exit(0)\nreturn z",
        "every element is 0",
    ),
    "a parameter": Cheat("return nn.Parameter(F.relu(self.linear(x)))", "output is a Parameter"),
    "infinities replaced": Cheat(
        "return torch.nan_to_num(F.relu(self.linear(x)))", "a finite value where the truth is"
    ),
    "columns first": Cheat("return F.relu(self.linear(x)).t().contiguous().t()", "view() on it would fail"),
    "approximate where inputs are uniform": Cheat(
        "y = F.relu(self.linear(x))\nreturn y.bfloat16().float() if 0 <= x.min() and x.max() <= 1 else y",
        "wrong for shipped",
    ),
    "sparse": Cheat("return F.relu(self.linear(x)).to_sparse()", "it raises RuntimeError"),
    "a negated view": Cheat("return torch._neg_view(-F.relu(self.linear(x)))", "rms error"),
    "weights changed unseen": Cheat(
        RIGHT.replace("return", "y =") + "\nself.linear.weight.data.mul_(1.0001)\nreturn y",
        "rms error",
        top="was, kept = nn.Module.state_dict, {}\ndef state_dict(self, *a, **k):\n"
        "    return {n: kept.setdefault((id(self), n), v.clone()) for n, v in was(self, *a, **k).items()}\n"
        "nn.Module.state_dict = state_dict\n",
    ),
    "cache by address": Cheat(
        "k = x.data_ptr()\nif k not in self.c: self.c[k] = F.relu(self.linear(x))\nreturn self.c[k].clone()",
        "rms error",
        "self.c = {}",
    ),
    "last answer by content": Cheat(  # never right again for the same inputs, unlike a cache of many answers
        "k = x.contiguous().numpy().tobytes()\nif self.k != k: self.k, self.y = k, F.relu(self.linear(x))\n"
        "return self.y.clone()",
        "parameters changed in place: rms error",
        "self.k = None",
    ),
    "weights packed until they are loaded": Cheat(
        "if self.w is None: self.w = self.linear.weight.detach().clone()\nreturn F.relu(F.linear(x, self.w, self.linear.bias))",
        "parameters changed in place: rms error",
        "self.w = None\nself.register_load_state_dict_post_hook(lambda module, keys: setattr(module, 'w', None))",
    ),
    "cache by address and version": Cheat(
        "k = (x.data_ptr(), x._version, tuple(x.shape), x.stride(), self.linear.weight._version)\n"
        "if k not in self.c: self.c[k] = (x, F.relu(self.linear(x)))\nreturn self.c[k][1].clone()",
        "new values, same address",
        "self.c = {}",
    ),
    "right twice": Cheat(
        "self.n += 1\ny = F.relu(self.linear(x))\nreturn y if self.n < 3 else y * 0.99", "rms error", "self.n = 0"
    ),
    "same buffer every time": Cheat(
        "y = F.relu(self.linear(x))\nif self.b is None or self.b.shape != y.shape: self.b = torch.empty_like(y)\n"
        "return self.b.copy_(y)",
        "reuses the memory of the previous call's output",
        "self.b = None",
    ),
    "weights that all instances share": Cheat(
        "return F.relu(LAST[0](x))",
        "wrong for beside another instance",
        "LAST[:] = [self.linear]",
        top="LAST = []\n",
    ),
    "changes its file": Cheat(RIGHT, "it is no longer what it was", top="open(__file__, 'a').write('#\\n')\n"),
    "writes into its input": Cheat(ALIAS + "x.add_(0.001)\nreturn y", "input 0 is changed"),
    "writes into its weights": Cheat(
        "y = F.relu(self.linear(x))\nself.linear.weight.data.mul_(1.0001)\nreturn y", "changes linear.weight"
    ),
    "tail unwritten": Cheat(
        ALIAS + "z = torch.empty_like(y)\nz.view(-1)[:-3] = y.view(-1)[:-3]\nreturn z", "look as if nobody wrote them"
    ),
    "nothing written": Cheat("return torch.empty(x.shape[0], 24)", "all elements are nan"),
    "written later by a thread": Cheat(
        ALIAS + "z = torch.empty_like(y)\nthreading.Timer(0.3, lambda: z.copy_(y)).start()\nreturn z",
        "a thread it started is still running",
    ),
    "thread kept": Cheat(
        ALIAS + "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\nreturn y",
        "a thread it started is still running",
    ),
    "hidden thread at work": Cheat(
        "if not self.busy:\n    self.busy = _thread.start_new_thread(burn, ())\n" + RIGHT,
        "it uses the processor between its calls",
        "self.busy = None",
        "def burn():\n    while True: sum(range(100000))\n",
    ),
    "scribbles later": Cheat(
        ALIAS + "_thread.start_new_thread(later, (y,))\nreturn y",
        "an output changed after it was returned",
        top="def later(y):\n    time.sleep(0.05)\n    y.add_(1)\n",
    ),
    "batches calls": Cheat(  # the work of several calls in the first: the others find their answers done
        "if self.y is None or self.y.shape[0] != x.shape[0]: self.y = F.relu(self.linear(x))\n"
        "self.n += 1\nif self.n % 4 == 0: self.y = F.relu(self.linear(x))\nreturn self.y.clone()",
        "rms error",
        "self.y, self.n = None, 0",
    ),
    "packs its weights once": Cheat(
        "if self.w is None: self.w = self.linear.weight.detach().t().contiguous()\n"
        "return F.relu(x @ self.w + self.linear.bias)",
        "rms error",
        "self.w = None",
    ),
    "right for its own batch": Cheat(
        "y = F.relu(self.linear(x))\nreturn y if x.shape[0] == 14 else y.flip(0)", "wrong for batch", ""
    ),
    "samples its input": Cheat(
        "return F.relu(self.linear(x[:, ::2].repeat_interleave(2, 1)))",
        "rms error",
    ),
    "tensor subclass": Cheat(
        "class Lazy(torch.Tensor): pass\nreturn F.relu(self.linear(x)).as_subclass(Lazy)", "not a plain tensor"
    ),
    "a view of its weights": Cheat(
        "return self.linear.weight.data.view(-1)[: x.shape[0] * 24].view(-1, 24)", "shares memory with parameter"
    ),
    "allclose replaced": Cheat(RIGHT, "torch.allclose is replaced", top="torch.allclose = lambda *a, **k: True"),
    "clock replaced": Cheat(RIGHT, "time.perf_counter is replaced", top="time.perf_counter = lambda: 0.0"),
    "equality replaced": Cheat(
        "torch.Tensor.__eq__ = lambda a, b: torch.ones_like(a, dtype=torch.bool)\n" + RIGHT, "__eq__ is replaced"
    ),
    "default dtype": Cheat(RIGHT, "the default dtype is changed", top="torch.set_default_dtype(torch.bfloat16)"),
    "threads": Cheat("torch.set_num_threads(1)\n" + RIGHT, "the number of threads is changed"),
    "subnormals flushed": Cheat("torch.set_flush_denormal(True)\n" + RIGHT, "flushing of subnormal numbers is changed"),
    "precision flag": Cheat(RIGHT, "is changed from", top="torch.backends.cuda.matmul.allow_tf32 = True"),
    "random state": Cheat("torch.manual_seed(0)\ntorch.rand(3)\n" + RIGHT, "the random state is changed"),
    "crash": Cheat("import ctypes\nctypes.string_at(0)", "crashed with SIGSEGV during the call"),
    "exit": Cheat("os._exit(0)", "ended the process (exit code 0) during the call"),
    "sys.exit": Cheat("sys.exit(0)", "it raises SystemExit"),
    "no end": Cheat("time.sleep(1000)", "no answer after"),  # waits, and leaves the processor to the others
    "endless memory": Cheat(
        "k = []\nwhile True: k.append(torch.ones(2**24)); time.sleep(0.005)", "of memory during the call"
    ),
    "forged replies": Cheat(
        "for fd in range(3, 40):\n    try: os.write(fd, b'{\"accepted\": true}\\n')\n    except OSError: pass\nreturn x",
        "sent ",
    ),
    "garbage on every pipe": Cheat(
        "for fd in range(3, 40):\n    try: os.write(fd, b'!\\n')\n    except OSError: pass\nreturn x", "sent something"
    ),
    "looks for the reference": Cheat(
        "found = [o for o in gc.get_objects() if type(o).__name__ == 'Model']\nreturn found[0](x)",
        "it raises IndexError",
    ),
    "catches all, answers zeros": Cheat(
        "try: raise RuntimeError('no kernel')\nexcept RuntimeError: return torch.zeros(x.shape[0], 24)",
        "every element is 0",
    ),
    "a list": Cheat("return [F.relu(self.linear(x))]", "it returns list(tensor)"),
    "one row": Cheat("return F.relu(self.linear(x))[:1]", "shape (1, 24)"),
    "double": Cheat("return F.relu(self.linear(x)).double()", "output is fp64"),
    "ignores strides": Cheat(
        "flat = torch.as_strided(x, x.shape, (x.shape[1], 1), x.storage_offset())\nreturn F.relu(self.linear(flat))",
        "it ignores the strides of its inputs",
    ),
    "parameters of its own": Cheat(RIGHT, "parameters cannot be loaded", "self.scale = nn.Parameter(torch.ones(1))"),
    "c++ that does not compile": Cheat(
        "raise RuntimeError('Error building extension: \\nmain.cpp:7:3: error: expected ; before return\\n')",
        "main.cpp:7:3: error: expected ; before return",
    ),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return judged(tmp_path_factory.mktemp("conduct"), {**CHEATS, "honest": Cheat(RIGHT, "")})


@pytest.mark.parametrize("name", CHEATS, ids=lambda text: text.replace(" ", "-"))
def test_each_is_rejected_for_what_it_does(reports, name):
    report = reports[name]
    assert report.accepted is False, report.headline
    assert any(CHEATS[name].reason in text for text in said(report)), said(report)


def test_the_honest_one_is_accepted(reports):
    assert reports["honest"].accepted is True, reports["honest"].headline
