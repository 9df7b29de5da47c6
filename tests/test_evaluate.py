"""Scoring again: rounds of a finished run, and two sets of images."""

import csv
import re
import shutil

import flax.struct
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import digests, tiny, untrained_run
from PIL import Image
from scipy import linalg, stats

from jaxtickets import evaluate, opening, sample
from jaxtickets.metrics import FEATURE_NETWORKS, FeatureNetwork
from jaxtickets.metrics.inception import RESIZE
from jaxtickets.workdir import Workdir

pytestmark = pytest.mark.usefixtures("digits_metric")
SMALL = {"model.width": 4, "eval.batch_size": 64, "eval.samples": 64}


@flax.struct.dataclass
class Plain:
    """Four features of an image: its mean, two halves' means and its mean square."""

    weights: jnp.ndarray
    name: str = flax.struct.field(pytree_node=False, default="plain")
    digest: str = flax.struct.field(pytree_node=False, default="plain")

    def __call__(self, images):
        x = images.mean(axis=-1)
        half = x.shape[1] // 2
        parts = (x, x[:, :half], x[:, :, :half], jnp.square(x))
        return jnp.stack([part.mean(axis=(1, 2)) for part in parts], axis=-1) * self.weights


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """A feature network whose features NumPy computes as well."""
    network = FeatureNetwork("plain", lambda config: Plain(jnp.float32([1, 2, 3, 4])))
    monkeypatch.setitem(FEATURE_NETWORKS, "plain", network)


def numpy_features(images):
    x = images.astype(np.float64).mean(axis=-1) / 127.5 - 1
    half = x.shape[1] // 2
    parts = (x, x[:, :half], x[:, :, :half], np.square(x))
    return np.stack([part.mean(axis=(1, 2)) for part in parts], axis=-1) * [1, 2, 3, 4]


def distance(first, second):
    """The Frechet distance by SciPy's matrix square root."""
    (m1, c1), (m2, c2) = ((f.mean(axis=0), np.cov(f, rowvar=False)) for f in map(numpy_features, (first, second)))
    return np.square(m1 - m2).sum() + np.trace(c1 + c2 - 2 * np.real(linalg.sqrtm(c1 @ c2)))


@pytest.fixture(scope="module")
def gan(data_directory, tmp_path_factory):
    return untrained_run(tiny("gan_digits", data_directory, **SMALL), tmp_path_factory.mktemp("gan") / "run")


@pytest.fixture(scope="module")
def autoencoder(data_directory, tmp_path_factory):
    return untrained_run(tiny("ae_digits", data_directory, **SMALL), tmp_path_factory.mktemp("ae") / "run")


def call(*arguments):
    """The command's exit status."""
    return evaluate.main(list(map(str, arguments)))


def refused(capsys, *arguments):
    """The last line with which the command refuses; others tell what data was read."""
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.strip().splitlines()[-1]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# Rounds.


def test_each_rounds_metric_is_that_of_its_own_weights(autoencoder, tmp_path, capsys):
    assert call(f"--workdir={autoencoder.path}", f"--out={tmp_path / 'a.csv'}") == 0
    rows, out = table(tmp_path / "a.csv"), capsys.readouterr().out
    assert [(row["seed"], row["round"]) for row in rows] == [("0", "0"), ("0", "1"), ("0", "2")]
    for row in rows:
        opened = opening.open_round(autoencoder, int(row["round"]))
        images = np.asarray(opening.dataset(opened, "test").images) / np.float32(127.5) - 1
        made = np.asarray(opened.objective.reconstruct(opened.params, opened.batch_stats, images), np.float64)
        assert float(row["reconstruction_error"]) == pytest.approx(np.square(images - made).mean(), rel=1e-5)
        assert (row["samples"], row["held_out_images"]) == ("64", "296")
        assert f"{float(row['sparsity']):.1%}"[:-1] in out
    assert "winner" in out and "dense" in out and "296 held-out images" in out
    # The untrained network is that of round 0 here.
    (untrained,) = (line.split() for line in out.splitlines() if line.strip().startswith("untrained network"))
    assert float(untrained[2]) == pytest.approx(float(rows[0]["reconstruction_error"]), rel=1e-3)


def test_a_likelihood_beside_the_elbo_says_which_of_them_has_its_constant(data_directory, tmp_path, capsys):
    vae = untrained_run(tiny("vae_digits", data_directory, **SMALL), tmp_path / "vae")
    flags = ["--rounds=0", "--metrics=negative_elbo,log_likelihood,bits_per_dimension", "--importance_samples=2"]
    assert call(f"--workdir={vae.path}", *flags) == 0
    out = " ".join(capsys.readouterr().out.split())
    of_image = -256 * stats.norm(0, 0.5**0.5).logpdf(0)
    assert f"nats for each pixel and channel, {of_image:.1f} for an image. log_likelihood and bits_per_dimension" in out
    assert "in nats, without the likelihood's constant, lower is better" in out
    assert "in nats, with its constant, a bound with 2 latents each, higher is better" in out
    assert call(f"--workdir={vae.path}", "--rounds=0", "--metrics=negative_elbo") == 0
    assert "Gaussian" not in capsys.readouterr().out


def test_other_metrics_features_and_numbers_of_samples_are_flags(gan, tmp_path, capsys):
    out = tmp_path / "a.csv"
    flags = ["--rounds=winner", "--metrics=fd", "--features=plain", "--samples=100", "--bootstrap=4", f"--out={out}"]
    assert call(f"--workdir={gan.path}", *flags) == 0
    (row,) = table(out)
    assert (row["round"], row["samples"]) == ("1", "100")
    opened = opening.open_round(gan, 1)
    made = np.concatenate(list(sample.samples(opened, 0, 100)))
    training = np.asarray(opening.dataset(opened, "train").images)
    # The samples of the metric are not rounded to 256 values.
    assert float(row["fd_plain"]) == pytest.approx(distance(made, training), rel=0.02)
    text = capsys.readouterr().out
    assert "fd_plain_low" in row and "fd_plain: " in text and "fd_plain_low: " not in text
    # As many held-out images as samples, from the whole test split: it may be in the order of its classes.
    held_out = np.asarray(opening.dataset(opened, "test").images)
    held_out = held_out[np.round(np.arange(100) * (len(held_out) - 1) / 99).astype(int)]
    (floor,) = (line.split() for line in text.splitlines() if line.strip().startswith("held-out images"))
    assert float(floor[2]) == pytest.approx(distance(held_out, training), rel=1e-3)


def test_several_seeds_have_a_row_each_and_a_mean(autoencoder, data_directory, tmp_path, capsys):
    whole = Workdir(tmp_path / "run")
    config = opening.read_config(autoencoder)
    config.update(seeds=2)
    whole.create(evaluate.config_lib.to_dict(config), {})
    whole.write_verdict({"winning_round": 2})
    for seed in (0, 1):
        shutil.copytree(autoencoder.path, whole.seed_dir(seed).path)
    assert call(f"--workdir={whole.path}", "--rounds=dense,winner", f"--out={tmp_path / 'a.csv'}") == 0
    rows, out = table(tmp_path / "a.csv"), capsys.readouterr().out
    assert [(row["seed"], row["round"]) for row in rows] == [("0", "0"), ("0", "2"), ("1", "0"), ("1", "2")]
    assert out.count("mean of 2") == 2 and "2 seeds" in out


@pytest.mark.parametrize("round_", [0, 2])
def test_weights_that_are_gone_are_told(autoencoder, tmp_path, capsys, round_):
    place = Workdir(shutil.copytree(autoencoder.path, tmp_path / "run"))
    place.write_verdict({"winning_round": None})
    place.weights(round_).unlink()
    assert call(f"--workdir={place.path}", f"--out={tmp_path / 'a.csv'}") == 0
    assert str(round_) not in {row["round"] for row in table(tmp_path / "a.csv")}
    assert f"{place.weights(round_)}: was kept and is gone; round {round_} is left out" in capsys.readouterr().err


def test_nothing_is_written_into_the_workdir(autoencoder, tmp_path):
    before = digests(autoencoder.path)
    assert call(f"--workdir={autoencoder.path}", "--rounds=0") == 0
    assert digests(autoencoder.path) == before


def test_mistakes_are_one_line(gan, autoencoder, tmp_path, capsys):
    run = f"--workdir={gan.path}"
    (tmp_path / "a.csv").touch()
    cases = {
        "give either --workdir, or --real and --fake": [],
        "two sets of images need --real and --fake": ["--real=digits"],
        "there is no such directory": [f"--workdir={tmp_path / 'none'}"],
        "has no readable config.json": [f"--workdir={tmp_path}"],
        "--rounds=8: .* has no weights of round 8; it has these rounds whose weights are kept: 0, 1, 2": [
            run,
            "--rounds=8",
        ],
        "--metrics=fdd: allowed is a tuple of some of fd": [run, "--metrics=fdd"],
        "--metrics=negative_elbo: allowed are fd.* with config.objective.name='gan'": [run, "--metrics=negative_elbo"],
        "--features=nets: allowed is one of": [run, "--features=nets"],
        "--samples=1: allowed is a whole number of at least 2": [run, "--samples=1"],
        "--samples=many: allowed is a whole number": [run, "--samples=many"],
        "--features=digits: is read by fd.* alone": [f"--workdir={autoencoder.path}", "--features=digits"],
        "a.csv: is there already; give another file, or --overwrite": [run, f"--out={tmp_path / 'a.csv'}"],
        "allowed is a file that ends in .csv": [run, f"--out={tmp_path / 'a.txt'}"],
        "--image_size=3: allowed with --real and --fake": [run, "--image_size=3"],
        "--on_broken=skip: allowed with --real and --fake": [run, "--on_broken=skip"],
        "--metrics=kid,nothing: allowed is a tuple of some of fd": [run, "--metrics=kid,nothing"],
        "--samples=64: allowed is at least 1000, --kid_subset_size, with": [run, "--metrics=kid", "--features=plain"],
        "extra: not a flag": [run, "extra"],
    }
    for text, arguments in cases.items():
        assert re.search(text, refused(capsys, *arguments)), text
    assert call(run, "--rounds=0", "--features=plain", f"--out={tmp_path / 'a.csv'}", "--overwrite") == 0


# Two sets of images.


@pytest.fixture
def pictures(tmp_path):
    """`pictures(name, images)` writes images as PNG files into a directory."""

    def write(name, images):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{number}.png")
        return tmp_path / name

    return write


def colours(n, size=(12, 10), seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, (n, *size, 3), np.uint8)


def test_two_sets_of_images_are_compared_as_they_are(pictures, tmp_path, capsys):
    real, fake = colours(30), colours(20, seed=1, high=200)
    flags = [f"--real={pictures('real', real)}", f"--fake={pictures('fake', fake)}", "--features=plain"]
    assert call(*flags, f"--out={tmp_path / 'a.csv'}") == 0
    (row,) = table(tmp_path / "a.csv")
    assert float(row["fd_plain"]) == pytest.approx(distance(fake, real), rel=1e-3)
    assert (row["real_images"], row["fake_images"]) == ("30", "20")
    out, error = capsys.readouterr()
    assert "20 images of" in out and "against 30 of" in out and "10x12 pixels" in out
    assert "fd_plain: Frechet distance in plain features, 20 samples, lower is better" in out
    assert "30 images (30 .png)" in error and "to train" not in error
    assert "singular" not in out and "grey" not in out


def test_a_table_says_what_its_numbers_depend_on(pictures, tmp_path, capsys, monkeypatch):
    about = "resized as one likes, trained on nothing."
    named = flax.struct.dataclass(type("Named", (Plain,), {"about": about}))(jnp.float32([1, 2, 3, 4]))
    monkeypatch.setitem(FEATURE_NETWORKS, "plain", FeatureNetwork("plain", lambda config: named, (RESIZE,)))
    flags = [f"--{name}={pictures(name, colours(30, seed=seed))}" for seed, name in enumerate(("real", "fake"))]
    flags += ["--features=plain", "--metrics=kid,fd", "--kid_subset_size=8", "--kid_subsets=20", "--resize=clean"]
    assert call(*flags, f"--out={tmp_path / 'a.csv'}") == 0
    (row,) = table(tmp_path / "a.csv")
    assert (row["resize"], row["kid_subsets"], row["kid_subset_size"]) == ("clean", "20", "8")
    assert (row["kid_seed"], row["plain_network"], row["plain_digest"]) == ("2020", about, "plain")
    out = " ".join(capsys.readouterr().out.split())
    assert "KID in plain features, 30 samples, 20 subsets of 8, seed 2020, lower is better" in out
    assert f"kid_plain, fd_plain: {about}" in out


def test_kid_has_its_standard_deviation_over_the_subsets(pictures, tmp_path):
    real, fake = colours(30), colours(20, seed=1, high=200)
    flags = [f"--real={pictures('real', real)}", f"--fake={pictures('fake', fake)}", "--features=plain"]
    flags += ["--metrics=kid", "--kid_subset_size=8", "--kid_subsets=20", f"--out={tmp_path / 'a.csv'}"]
    assert call(*flags) == 0
    (row,) = table(tmp_path / "a.csv")
    # By torch-fidelity's rule: the generated set is its first input, and files go by their sorted names.
    order = {n: sorted(range(n), key=lambda number: f"{number}.png") for n in (20, 30)}
    both = numpy_features(fake[order[20]]), numpy_features(real[order[30]])
    rng, values = np.random.RandomState(2020), []
    for _ in range(20):
        x, y = (features[rng.choice(len(features), 8, replace=False)] for features in both)
        within = [((z @ z.T / 4 + 1) ** 3)[~np.eye(8, dtype=bool)].mean() for z in (x, y)]
        values.append(sum(within) - 2 * ((x @ y.T / 4 + 1) ** 3).mean())
    assert float(row["kid_plain"]) == pytest.approx(np.mean(values), rel=1e-4)
    assert float(row["kid_plain_std"]) == pytest.approx(np.std(values), rel=1e-4)


def test_a_run_has_the_spread_of_kid_and_its_settings_too(gan, tmp_path, capsys):
    out = tmp_path / "a.csv"
    flags = ["--rounds=0", "--metrics=kid", "--features=plain", "--kid_subset_size=20", "--kid_subsets=5"]
    assert call(f"--workdir={gan.path}", *flags, f"--out={out}") == 0
    (row,) = table(out)
    assert float(row["kid_plain_std"]) > 0 and (row["kid_subsets"], row["kid_seed"]) == ("5", "2020")
    text = capsys.readouterr().out
    assert "5 subsets of 20, seed 2020, lower is better" in " ".join(text.split())
    assert "kid_plain_std: standard deviation of kid_plain over its draws\n" in text


def test_grey_beside_colour_and_few_images_for_the_features_are_told(pictures, capsys):
    grey = np.repeat(colours(10)[..., :1], 3, axis=-1)
    flags = [f"--real={pictures('real', colours(10))}", f"--fake={pictures('fake', grey)}"]
    assert call(*flags, "--features=plain") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert re.search("--real=.*real is in colour and --fake=.*fake grey: grey images are compared as three equal", out)
    assert "singular" not in out and "networks of grey" not in out  # Four features.
    assert call(*flags, "--features=digits") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the covariance of 10 images in 64 features is singular" in out
    assert "digits are networks of grey images: they see the mean of an image's channels" in out


def test_broken_images_of_a_set_can_be_left_out(pictures, tmp_path, capsys):
    real, fake = pictures("real", colours(12)), pictures("fake", colours(12, seed=1))
    (real / "1.png").write_bytes(b"<html>404</html>")
    flags = [f"--real={real}", f"--fake={fake}", "--features=plain", f"--out={tmp_path / 'a.csv'}"]
    assert refused(capsys, *flags).endswith("mend or remove it, or leave such images out with --on_broken=skip")
    assert call(*flags, "--on_broken=skip") == 0
    (row,) = table(tmp_path / "a.csv")
    expected = distance(colours(12, seed=1), np.delete(colours(12), 1, axis=0))
    assert row["real_images"] == "11" and float(row["fd_plain"]) == pytest.approx(expected, rel=1e-3)
    assert f"--real={real}: 1 of the 12 images can't be read and are left out" in capsys.readouterr().err
    assert "--on_broken=maybe: allowed is one of stop, skip" in refused(capsys, *flags[:-1], "--on_broken=maybe")


def test_a_set_has_no_distance_from_itself_and_may_be_an_archive_or_a_data_set(pictures, tmp_path, capsys):
    place = pictures("real", colours(30, (8, 8)))
    archive = shutil.make_archive(str(tmp_path / "fake"), "zip", place)
    for real, fake in ((place, archive), ("digits", "digits")):
        assert (
            call(f"--real={real}", f"--fake={fake}", "--features=plain", f"--out={tmp_path / 'a.csv'}", "--overwrite")
            == 0
        )
        assert float(table(tmp_path / "a.csv")[0]["fd_plain"]) == pytest.approx(0, abs=1e-6)


def test_sets_that_do_not_match_are_one_line(pictures, tmp_path, capsys):
    real, small = pictures("real", colours(10)), pictures("small", colours(10, (6, 6)))
    few = pictures("few", colours(4))
    mixed = pictures("mixed", [*colours(2), *colours(2, (6, 6))])
    (tmp_path / "empty").mkdir()
    broken = shutil.copytree(real, tmp_path / "broken")
    (broken / "1.png").write_bytes((real / "1.png").read_bytes()[:60])
    page = shutil.copytree(real, tmp_path / "page")
    (page / "1.png").write_bytes(b"<html>404</html>")
    features = "--features=plain"
    cases = {
        "has images of 10x12 pixels and .*small of 6x6; give --image_size": (real, small),
        r"mixed: .*png has (10x12|6x6) and .*png has (10x12|6x6) pixels; give --image_size": (real, mixed),
        "--fake=.*empty": (real, tmp_path / "empty"),
        "--fake=.*nowhere: no such file or directory$": (real, tmp_path / "nowhere"),
        "--fake=nowhere.zip: no such file or directory$": (real, "nowhere.zip"),
        "--fake=nowhere is unknown; allowed: digits, .*files:PATH": (real, "nowhere"),
        "--real=.*few has 4 images: allowed is at least 10 with the metric fd, which": (few, few),
        "--fake=.*empty holds nothing that can be read": (real, tmp_path / "empty"),
        "1.png is no readable image": (broken, real),
        r"1.png is no readable image \(Pillow doesn't know its format\); mend": (page, real),
    }
    for text, (first, second) in cases.items():
        assert re.search(text, refused(capsys, f"--real={first}", f"--fake={second}", features)), text
    both = [f"--real={real}", f"--fake={small}"]
    assert call(*both, features, "--image_size=6") == 0
    capsys.readouterr()
    assert "--metrics=psnr: allowed for two sets of images are fd" in refused(capsys, *both, "--metrics=psnr")
    assert "--samples=3: allowed with --workdir" in refused(capsys, *both, "--samples=3")
    same = [f"--real={real}", f"--fake={real}"]
    assert refused(capsys, *same, features, "--metrics=kid").endswith(
        f"--real={real} has 10 images: allowed is at least 1000, --kid_subset_size, with the metric kid"
    )
    # An error that has nothing to do with the number of images.
    line = refused(capsys, *same, "--metrics=fid")
    assert line.startswith("jaxtickets: --metrics=fid: Inception's weights are not in the cache")
