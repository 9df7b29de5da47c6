"""Images per second of Inception's features: jaxtickets, and pytorch-fid's network in PyTorch, in turn in one run.

    python benchmarks/inception.py [--images=128] [--batch=32] [--size=32] [--features=5000] [--out=FILE.json]

Both read the same uint8 images from the host, resize them to 299x299 as pytorch-fid does, and return 2048 features to
the host; the weights are random and the same, and the largest difference of the features is printed. PyTorch runs
eagerly, with contiguous and with channels-last tensors.

On the CPU all compute in float32. On a GPU jaxtickets computes in float32 by default; "jaxtickets, TF32" and "PyTorch"
have TF32 convolutions, which is PyTorch's default, and "PyTorch, float32" has not. The time that XLA takes to compile
jaxtickets' program comes first; it is there once, because programs are kept.

Then what each metric takes beside the features: FID of --features samples and as many images, whose own statistics are
computed once, beside pytorch-fid's function on the same features; KID and the precision and recall of the same.

PyTorch's threads wait for each other in loops: on a machine with other work its figures are too low. The processor's
time per image, of all cores together, is printed too. Needs `pip install -e .[peers]`.
"""

import statistics
import time

import harness
import jax
import numpy as np
import torch
from jax import lax

from jaxtickets import config as config_lib
from jaxtickets.examples import to_float
from jaxtickets.metrics import METRICS, Features, Sets, inception
from jaxtickets.metrics.inception_network import params_of, published_shapes


def random_tensors() -> dict[str, np.ndarray]:
    """Tensors of the published shapes, with which activations keep their size from layer to layer."""
    rng, tensors = np.random.default_rng(0), {}
    for name, shape in published_shapes().items():
        values = rng.standard_normal(shape, np.float32)
        if len(shape) > 1:
            values *= np.float32(2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            values = 0.5 + rng.random(shape, np.float32)
        tensors[name] = values
    return tensors


def torch_network(tensors):
    """pytorch-fid's network with these weights."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # PyPI's torchvision beside a PyTorch for CPUs: its operators, which are not used, don't load.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch_network.library = library  # It has to live on.
    from pytorch_fid import inception as theirs

    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    for name in list(state):
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    theirs.load_state_dict_from_url = lambda *_, **__: state
    return theirs.InceptionV3([3]).eval()


def beside_features(n: int) -> dict[str, float]:
    """Seconds of each metric, given 2048 features of `n` samples and of `n` images, whose statistics are known."""
    from pytorch_fid import fid_score

    config = config_lib.get_config()
    config.eval.update(features="inception", samples=n)
    rng = np.random.default_rng(0)
    # Few directions carry most of the variance, as in real features.
    scales = (1 / (1 + np.arange(2048))).astype(np.float32)
    training, generated = (np.abs(rng.standard_normal((n, 2048), np.float32)) * scales + shift for shift in (0, 0.01))
    of_training = Features(lambda: [training])
    _ = of_training.array, of_training.roots
    found, seconds = {}, {}
    for name in ("fid", "kid", "precision_recall"):
        for _ in range(2):  # The first time compiles, and knows nothing of the images yet.
            started = time.perf_counter()
            sets = Sets(Features(lambda: [generated]), of_training, of_training)
            found[name] = METRICS[name].measure(sets, config)[0]
            seconds[name] = time.perf_counter() - started
    known = np.float64(training).mean(axis=0), np.cov(training, rowvar=False)
    started = time.perf_counter()
    theirs = fid_score.calculate_frechet_distance(
        np.float64(generated).mean(axis=0), np.cov(generated, rowvar=False), *known
    )
    seconds["fid, pytorch-fid"] = time.perf_counter() - started
    if not np.isclose(found["fid"], theirs, rtol=1e-3):
        raise SystemExit(f"FID is {found['fid']} here and {theirs} in pytorch-fid")
    return seconds


def main():
    parser = harness.parser(__doc__, repeats=5)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32, help="the height and width of the images")
    parser.add_argument("--features", type=int, default=5000, help="the number of samples of the metrics; 0: none")
    options = parser.parse_args()
    images = harness.random_images(options.images // options.batch * options.batch, options.size)
    batches = np.split(images, len(images) // options.batch)
    tensors = random_tensors()
    params = jax.device_put(params_of(tensors))

    def ours(precision):
        network = inception.InceptionFeatures(params, "inception", "2048", "pytorch", "", precision)
        started = time.perf_counter()
        program = jax.jit(lambda network, images: network(to_float(images))).lower(network, batches[0]).compile()
        compiled = time.perf_counter() - started

        def run():
            started = [
                program(network, batch) for batch in batches
            ]  # The device works while the host hands on batches.
            return np.concatenate([np.asarray(batch) for batch in started])

        return run, compiled

    def theirs(memory_format, device, tf32):
        network = torch_network(tensors).to(device, memory_format=memory_format)

        def run():
            torch.backends.cudnn.allow_tf32 = tf32
            with torch.no_grad():
                read = (torch.from_numpy(batch.transpose(0, 3, 1, 2)).to(device).float() / 255 for batch in batches)
                features = [network(x.contiguous(memory_format=memory_format))[0].flatten(1) for x in read]
                return torch.cat(features).cpu().numpy()

        return run

    on_gpu = jax.default_backend() == "gpu"
    device = "cuda" if on_gpu else "cpu"
    if on_gpu and not torch.cuda.is_available():
        parser.error("JAX sees a GPU and PyTorch does not")
    runners, compiled = {}, {}
    runners["jaxtickets"], compiled["jaxtickets"] = ours(lax.Precision.HIGHEST)
    if on_gpu:
        name = "jaxtickets, TF32"
        runners[name], compiled[name] = ours(lax.Precision.DEFAULT)
        runners["PyTorch, float32"] = theirs(torch.channels_last, device, False)
    runners["PyTorch"] = theirs(torch.contiguous_format, device, True)
    runners["PyTorch, channels last"] = theirs(torch.channels_last, device, True)
    for name, seconds in compiled.items():
        print(f"{name}: compiled in {seconds:.1f} s")

    features = {name: run() for name, run in runners.items()}
    scale = np.abs(features["PyTorch"]).max()
    processor = {name: [] for name in runners}

    def timed(name, run):
        def call():
            started = time.process_time()
            run()
            processor[name].append(time.process_time() - started)

        return call

    seconds = harness.in_turn({name: timed(name, run) for name, run in runners.items()}, options.repeats)
    print(f"\n{'':24} {'images/s, median (range)':>26} {'processor ms/image':>20} {'difference':>11}")
    for name, values in seconds.items():
        rates = harness.spread([len(images) / value for value in values], 1)
        work = 1000 * statistics.median(processor[name][1:]) / len(images)
        difference = np.abs(features[name] - features["PyTorch"]).max() / scale
        print(f"{name:24} {rates:>26} {work:20.1f} {difference:11.1e}")
    fastest = min((name for name in seconds if "PyTorch" in name), key=lambda name: statistics.median(seconds[name]))
    print(f"\n{fastest} / jaxtickets: {harness.spread(harness.ratios(seconds, fastest, 'jaxtickets'), 2)} of the time")
    metrics = beside_features(options.features) if options.features else {}
    for name, value in metrics.items():
        print(f"{name:24} {value:8.2f} s for {options.features:,} samples, beside their features")
    results = {
        "metric_seconds": metrics,
        "images": len(images),
        "batch": options.batch,
        "size": options.size,
        "compile_seconds": compiled,
    }
    harness.write(options, {**results, "seconds": seconds, "processor_seconds": processor})


if __name__ == "__main__":
    main()
