"""What may be done to a finished run, by an outsider and by its owner, and which checks must find it."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from experiments.assessment.statements import add_statement, audit_file, make_statement
from fedmm_secure.federation.transcript import HELLO, METER, Record, read_index
from fedmm_secure.results.metrics import figures_of_seeds, macro_figures
from fedmm_secure.storage.encoding import tensors_bytes
from fedmm_secure.storage.files import torch_bytes
from fedmm_secure.storage.layout import PRIVATE
from privacy.accounting.ledger import CHARGE, CLOSE, NOTE, SEAL
from privacy.aggregation.identities import Identity
from tests.forgery import Forgery, Line

VIOLATED = {
    "market": "m0",
    "stage": "ctr",
    "game": "crafted user",
    "claimed": 1.0,
    "detects": 1.5,
    "low_fdp": 2.0,
    "low_one_run": None,
    "canaries": 500,
    "verdict": "VIOLATED",
}
ROWS = b"".join(bytes([user, item]) for user in range(80) for item in range(30))
NO_OP = {"kind": "no-op"}
COUNTS, MODEL = "counts/0000-publication-m0.bin", "quantizer-model/0/0000-publication-m0.bin"
ITEM_CODES, CTR = "item-codes/0/0000-publication-m0.bin", "ctr/0/0000-publication-m0.bin"


# what the files say


def many_users(run: Forgery) -> None:
    def change(metrics):
        for values in metrics["markets"].values():
            values["n_users"] *= 100

    run.json("metrics.json", change)


def good_auc(run: Forgery) -> None:
    """In every market, and wherever something follows from it."""

    def change(metrics):
        for values in metrics["markets"].values():
            values |= {"auc_by_seed": [0.99], **figures_of_seeds([0.99])}
            for other in values["baselines"].values():
                other["auc_gain_over_it"]["mean"] = 0.99 - other["auc"]
        metrics["macro"] = macro_figures(metrics["markets"], 1)

    run.json("metrics.json", change)


def good_macro_auc(run: Forgery) -> None:
    run.json("metrics.json", lambda metrics: metrics["macro"].update(auc=0.99))


def _configured(section: str, **values):
    return lambda run: run.configure(section, **values)


def _environment(**values):
    def apply(run: Forgery) -> None:
        run.json("environment.json", lambda found: found.update(values))

    return apply


def old_torch(run: Forgery) -> None:
    run.json("environment.json", lambda found: found["packages"].update(torch="1.0.0"))


def last_release_dropped(run: Forgery) -> None:
    run.drop("m0", lambda line: line.stage == "ctr/0")
    run.remove(lambda record: record.stage == "ctr/0" and record.sender == "m0")
    (run.directory / "models" / "m0" / "ctr-0.pt").unlink()


def model_of_another(run: Forgery) -> None:
    shutil.copy(run.directory / "models" / "m1" / "ctr-0.pt", run.directory / "models" / "m0" / "ctr-0.pt")


def quantizer_of_another(run: Forgery) -> None:
    shutil.copy(run.directory / "models" / "m1" / "quantizer-0.pt", run.directory / "models" / "m0" / "quantizer-0.pt")


def codes_of_another(run: Forgery) -> None:
    shutil.copy(run.directory / "codes" / "m1.parquet", run.directory / "codes" / "m0.parquet")


def sum_zeroed(run: Forgery) -> None:
    file = "quantizer/0/0001-sum-server.bin"
    run.replace(file, bytes(len(run.read(file))))


def rows_as_sum(run: Forgery) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (80, 40)).astype("<i8").tobytes()
    like = run.records["quantizer/0/0001-sum-server.bin"]
    file = "counts/0000-sum-m0.bin"
    run.add(_like(like, rows, file=file, stage="counts", round=0, sender="m0"), rows)


def _like(record: Record, data: bytes, **changed) -> Record:
    return replace(record, sha256=hashlib.sha256(data).hexdigest(), size=len(data), **changed)


def state_edited(run: Forgery) -> None:
    run.json("state/seconds.json", lambda found: found.update({name: 100 * value for name, value in found.items()}))


def hellos_removed(run: Forgery) -> None:
    run.remove(lambda record: record.kind == HELLO)


def market_removed(run: Forgery) -> None:
    for folder in ("ledger", "models", "codes", "predictions", PRIVATE):
        for path in (run.directory / folder).glob("m2*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def change(metrics):
        del metrics["markets"]["m2"], metrics["privacy"]["markets"]["m2"]

    run.json("metrics.json", change)
    run.remove(lambda record: record.sender == "m2")
    run.markets.remove("m2")


# ledgers written anew


def all_no_op(run: Forgery) -> None:
    for market in run.markets:
        for entry in run.entries(market):
            entry["event"] = NO_OP
    run.state_again()


def ten_times_the_noise(run: Forgery) -> None:
    def scaled(event):
        found = dict(event)
        if "noise_multiplier" in found:
            found["noise_multiplier"] *= 10
        return {key: scaled(value) if key == "event" else value for key, value in found.items()}

    for market in run.markets:
        for entry in run.entries(market):
            entry["event"] = scaled(entry["event"])
        noise = run.opening(market)["noise"]
        noise.update({stage: 10 * multiplier for stage, multiplier in noise.items()})
    run.state_again()


def large_delta(run: Forgery) -> None:
    run.configure("privacy", delta=0.02)
    for market in run.markets:
        run.opening(market)["delta"] = 0.02
        for entry in run.entries(market):
            entry["delta"] = 0.02
    run.state_again()


def rounds_dropped(run: Forgery) -> None:
    for market in run.markets:
        run.drop(market, lambda line: line.stage == "quantizer/0" and line.body["entry"]["round"] > 0)
    run.remove(lambda record: record.stage == "quantizer/0" and record.round > 0)
    for market in run.markets:
        run.keep(market, lambda record: record.stage != "quantizer/0" or record.round == 0)
    run.state_again()


def counts_without_noise(run: Forgery) -> None:
    found = _arrays(run.read(COUNTS))
    rng = np.random.default_rng(0)
    found["values"] = rng.poisson(5.0, len(found["values"])) * 0.37
    run.replace(COUNTS, _npz(found))


def rows_in_the_model(run: Forgery) -> None:
    state = torch.load(io.BytesIO(run.read(MODEL)), weights_only=True)
    state["encoder.4.weight"] = torch.zeros(400, 40)
    run.replace(MODEL, torch_bytes(state))


# and what else comes to mind


def rows_behind_a_tensor(run: Forgery) -> None:
    """The storage that a tensor is a view of is saved as a whole."""
    state = torch.load(io.BytesIO(run.read(MODEL)), weights_only=True)
    bias = state["encoder.0.bias"]
    state["encoder.0.bias"] = torch.cat([bias, torch.zeros(400)])[: len(bias)]
    run.replace(MODEL, torch_bytes(state))


def rows_as_constants(run: Forgery) -> None:
    """What standardises a CTR model's numbers: no noise reaches it."""
    state = torch.load(io.BytesIO(run.read(CTR)), weights_only=True)
    state["centre"] = torch.frombuffer(bytearray(ROWS), dtype=torch.uint8)[: len(state["centre"])].double()
    data = tensors_bytes(state)
    run.replace(CTR, data)
    (run.directory / "models" / "m0" / "ctr-0.pt").write_bytes(data)


def rows_behind_the_counts(run: Forgery) -> None:
    run.replace(COUNTS, run.read(COUNTS) + bytes(80 * 40 * 8))


def users_among_items(run: Forgery) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((40 + 80, 2), dtype=np.int64))
    run.replace(ITEM_CODES, buffer.getvalue())


def codes_of_nobodys_model(run: Forgery) -> None:
    """As many codes as there are items, in range, and not what the model gives: room for a message."""
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(0).integers(0, 8, (40, 2)))
    run.replace(ITEM_CODES, buffer.getvalue())


def factors_of_other_items(run: Forgery) -> None:
    file = "embedding/0000-publication-m0.bin"
    found = _arrays(run.read(file))
    chosen = np.setdiff1d(np.arange(40), found["items"])[: len(found["items"])]
    found["items"] = np.sort(np.concatenate([chosen, found["items"]])[: len(found["items"])])
    run.replace(file, _npz(found))


def wider_numbers(run: Forgery) -> None:
    """Single precision became double: twice the room."""
    state = torch.load(io.BytesIO(run.read(CTR)), weights_only=True)
    state["network"]["bias"] = state["network"]["bias"].double()
    run.replace(CTR, torch_bytes(state))
    (run.directory / "models" / "m0" / "ctr-0.pt").write_bytes(run.read(CTR))


def published_twice(run: Forgery) -> None:
    """A second draw of the counts, with a charge and a seal of its own."""
    lines = run.ledgers["m0"]
    charge = next(line for line in lines if line.kind == CHARGE and line.stage == "counts")
    seal = next(line for line in lines if line.kind == SEAL and line.of is charge)
    another = Line(CHARGE, json.loads(json.dumps({**charge.body, "key": "0" * 64})))
    sealed = Line(SEAL, dict(seal.body), another)
    lines[-1:-1] = [another, sealed]


def published_unpaid(run: Forgery) -> None:
    """A model of the rounds' middle, with no charge at all."""
    data = run.read(MODEL)
    file = "quantizer-model/0/0001-publication-m0.bin"
    run.add(_like(run.records[MODEL], data, file=file, round=1), data)


def file_slipped_in(run: Forgery) -> None:
    (run.directory / "transcript" / "counts" / "rows.bin").write_bytes(b"rows")


def another_kind(run: Forgery) -> None:
    data = b"rows"
    file = "counts/0000-rows-m0.bin"
    run.add(_like(run.records[COUNTS], data, file=file, kind="rows"), data)


def hidden_from_the_release(run: Forgery) -> None:
    """A publication whose record says that its owner alone has seen it: attacks would not read it."""
    run.replace(COUNTS, run.read(COUNTS), visible_to=("owner:m0",))


def own_update_changed(run: Forgery) -> None:
    file = "quantizer/0/0001-own-update-m0.bin"
    values = np.frombuffer(run.own("m0", file), "<i8").copy()
    values[0] += 1
    run.keep("m0", lambda record: True, {file: values.tobytes()})


def own_update_shown(run: Forgery) -> None:
    """Under distributed noise it carries a part of the noise only; here the run need not have any."""
    _moved_to_the_transcript(run, "quantizer/0/0001-own-update-m0.bin")


def user_codes_shown(run: Forgery) -> None:
    """Randomised codes of every user, which no view but the profile's counts."""
    _moved_to_the_transcript(run, "user-codes/0/0000-publication-m0.bin")


def _moved_to_the_transcript(run: Forgery, file: str) -> None:
    (record,) = [record for record in read_index(run.directory / PRIVATE / "m0") if record.file == file]
    run.add(record, run.own("m0", file))


def update_swapped(run: Forgery) -> None:
    """m0's update under m1's name."""
    run.replace("quantizer/0/0001-update-m1.bin", run.read("quantizer/0/0001-update-m0.bin"))


def another_markets_ledger(run: Forgery) -> None:
    run.ledgers["m0"] = [Line(line.kind, json.loads(json.dumps(line.body)), line.of) for line in run.ledgers["m1"]]
    old = {id(line): new for line, new in zip(run.ledgers["m1"], run.ledgers["m0"], strict=True)}
    for line in run.ledgers["m0"]:
        line.of = None if line.of is None else old[id(line.of)]


def seal_dropped(run: Forgery) -> None:
    run.ledgers["m0"] = [line for line in run.ledgers["m0"] if not (line.kind == SEAL and line.stage == "ctr/0")]


def key_used_twice(run: Forgery) -> None:
    charges = [line for line in run.ledgers["m0"] if line.kind == CHARGE and line.stage == "quantizer/0"]
    charges[1].body["key"] = charges[0].body["key"]


def other_rows_read(run: Forgery) -> None:
    charge = next(line for line in run.ledgers["m0"] if line.kind == CHARGE and line.stage == "ctr/0")
    charge.body["data"] = "0" * 64


def charges_reordered(run: Forgery) -> None:
    lines = run.ledgers["m0"]
    first, second = (
        next(index for index, line in enumerate(lines) if line.kind == CHARGE and line.stage == stage)
        for stage in ("counts", "embedding")
    )
    lines[first : first + 2], lines[second : second + 2] = lines[second : second + 2], lines[first : first + 2]


def half_the_noise(run: Forgery) -> None:
    """What a machine that adds half the noise would leave."""
    for file in [file for file, record in run.records.items() if record.kind == METER and record.stage == "counts"]:
        values = np.frombuffer(run.read(file), "<i8")
        run.replace(file, (values // 2).astype("<i8").tobytes())


def no_noise(run: Forgery) -> None:
    for file in [file for file, record in run.records.items() if record.kind == METER]:
        run.replace(file, bytes(len(run.read(file))))


def noise_of_another(run: Forgery) -> None:
    run.replace("counts/0000-meter-m0.bin", run.read("counts/0000-meter-m1.bin"))


def fewer_spare_values(run: Forgery) -> None:
    run.replace("counts/0000-meter-m0.bin", run.read("counts/0000-meter-m0.bin")[:80])


def not_closed(run: Forgery) -> None:
    for market in run.markets:
        run.ledgers[market] = [line for line in run.ledgers[market] if line.kind != CLOSE]


def earlier_runs_forgotten(run: Forgery) -> None:
    for market in run.markets:
        run.drop(market, lambda line: line.kind == NOTE and line.stage == "earlier-runs")


def earlier_runs_restated(run: Forgery) -> None:
    for market in run.markets:
        for entry in run.entries(market):
            if entry["stage"] == "earlier-runs":
                entry["remark"] = "7"
                for event in entry["view_events"].values():
                    event["events"] = [{"kind": "gaussian", "noise_multiplier": 1e6}]
    run.state_again()


def statement_of_another(run: Forgery) -> None:
    def change(metrics):
        metrics["privacy"]["markets"]["m0"]["release"]["epsilon"] /= 2

    run.json("metrics.json", change)


def rows_in_the_comment_of_an_archive(run: Forgery) -> None:
    buffer = io.BytesIO(run.read(COUNTS))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = ROWS[:1000]
    run.replace(COUNTS, buffer.getvalue())


def rows_before_an_archive(run: Forgery) -> None:
    file = "embedding/0000-publication-m0.bin"
    run.replace(file, ROWS[:1000] + run.read(file))


def rows_as_blanks_of_a_header(run: Forgery) -> None:
    codes = np.load(io.BytesIO(run.read(ITEM_CODES)))
    blanks = b"".join(b"\t" if byte >> bit & 1 else b" " for byte in ROWS[:200] for bit in range(8))
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (%d, 2), }" % len(codes) + blanks + b"\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    run.replace(ITEM_CODES, start + header + codes.tobytes())


def rows_as_the_mechanism_of_a_note(run: Forgery) -> None:
    for market in run.markets:
        for entry in run.entries(market):
            if entry["stage"] == "earlier-runs":
                entry["mechanism"] = ROWS.hex()


def rows_as_a_metric(run: Forgery) -> None:
    run.json("metrics.json", lambda found: found.update(rows=ROWS.hex()))


def rows_as_a_baseline(run: Forgery) -> None:
    def change(metrics):
        baselines = metrics["macro"]["baselines"]
        baselines[ROWS.hex()] = baselines["popularity"]

    run.json("metrics.json", change)


def rows_beside_the_models(run: Forgery) -> None:
    (run.directory / "models" / "m0.csv").write_bytes(ROWS)


def rows_in_a_hidden_file(run: Forgery) -> None:
    (run.directory / "transcript" / "counts" / ".rows.tmp").write_bytes(ROWS)


def rows_as_a_folder(run: Forgery) -> None:
    (run.directory / ROWS[:100].hex()).mkdir()


def a_comment_in_the_configuration(run: Forgery) -> None:
    path = run.directory / "config.yaml"
    path.write_bytes(path.read_bytes() + b"# " + ROWS.hex().encode() + b"\n")


def audit_whitewashed(run: Forgery) -> None:
    """An auditor's finding, turned in the file; as the owner, signed anew with a key of the run."""
    auditor, path = Identity.generate("auditor"), audit_file(run.directory, "m0")
    add_statement(run.directory, path, make_statement(run.directory, "audit", {}, {"audit": [VIOLATED]}, auditor))
    path.write_text(path.read_text(encoding="utf-8").replace("VIOLATED", "not refuted"), encoding="utf-8")


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


Manipulation = Callable[[Forgery], None]
MANIPULATIONS: Mapping[str, Manipulation] = {
    "users × 100 in the metrics": many_users,
    "AUC of .99 in the metrics": good_auc,
    "AUC of .99 over markets that have less": good_macro_auc,
    "configuration: ε 8 → 1": _configured("privacy", epsilon=1.0),
    "configuration: δ → 1e-9": _configured("privacy", delta=1e-9),
    "configuration: protect release → federation": _configured(
        "privacy", protect="federation", user_codes_epsilon=None
    ),
    "configuration: sampling rate": _configured("privacy.quantizer", sampling_rate=0.01),
    "configuration: rounds": _configured("federation", rounds=2),
    "configuration: clipping norm": _configured("privacy.quantizer", clipping_norm=0.5),
    "configuration: a noise seed": _configured("privacy", noise_seed=1),
    "last charge dropped, with its seal, record and model": last_release_dropped,
    "CTR model of another market": model_of_another,
    "codes of another market": codes_of_another,
    "another commit": _environment(commit="0" * 40),
    "another hash of the code": _environment(code="0" * 64),
    "another version of PyTorch": old_torch,
    "a sum's record zeroed": sum_zeroed,
    "raw rows as one more record of kind `sum`": rows_as_sum,
    "`state/` edited": state_edited,
    "hellos removed": hellos_removed,
    "a whole market removed": market_removed,
    "a VIOLATED audit set to not refuted": audit_whitewashed,
    "ledger: all events no-op, ε = 0 stated": all_no_op,
    "ledger: noise × 10": ten_times_the_noise,
    "ledger and configuration: δ = .02 at 80 users": large_delta,
    "ledger: rounds dropped, with their records": rounds_dropped,
    "counts without noise": counts_without_noise,
    "a tensor of 400 rows inside the model": rows_in_the_model,
    "rows in the storage behind a tensor": rows_behind_a_tensor,
    "rows as the constants of a CTR model": rows_as_constants,
    "rows behind the end of a file": rows_behind_the_counts,
    "user codes among the item codes": users_among_items,
    "item codes that no model gives": codes_of_nobodys_model,
    "factors of items that the counts do not choose": factors_of_other_items,
    "a wider type of number": wider_numbers,
    "RQ-VAE of another market": quantizer_of_another,
    "counts drawn and charged twice": published_twice,
    "a publication without a charge": published_unpaid,
    "a file beside the index": file_slipped_in,
    "a record of a new kind": another_kind,
    "a publication recorded as seen by its owner alone": hidden_from_the_release,
    "an own update changed": own_update_changed,
    "an own update in the transcript": own_update_shown,
    "randomised user codes in the transcript": user_codes_shown,
    "an update under another market's name": update_swapped,
    "the ledger of another market": another_markets_ledger,
    "a seal dropped": seal_dropped,
    "one key of randomness for two charges": key_used_twice,
    "a charge that read other rows": other_rows_read,
    "charges in another order": charges_reordered,
    "spare values of half the noise": half_the_noise,
    "spare values without noise": no_noise,
    "spare values of another market": noise_of_another,
    "fewer spare values": fewer_spare_values,
    "last lines dropped": not_closed,
    "the note of earlier runs dropped": earlier_runs_forgotten,
    "the note of earlier runs with other figures": earlier_runs_restated,
    "half the ε in the statement": statement_of_another,
    "rows in the comment of an archive": rows_in_the_comment_of_an_archive,
    "rows before an archive": rows_before_an_archive,
    "rows as blanks of an array's header": rows_as_blanks_of_a_header,
    "rows as the mechanism of a note": rows_as_the_mechanism_of_a_note,
    "rows as one more metric": rows_as_a_metric,
    "rows as the name of a baseline": rows_as_a_baseline,
    "rows as one more field of the environment": _environment(rows=ROWS.hex()),
    "rows as a comment in the configuration": a_comment_in_the_configuration,
    "a file of rows beside the models": rows_beside_the_models,
    "a hidden file of rows": rows_in_a_hidden_file,
    "a folder with rows for a name": rows_as_a_folder,
}

# What an owner cannot hide who signs again with a key of the run: the checks that find it.
BY_OWNER: Mapping[str, str] = {
    "users × 100 in the metrics": "opening line",
    "AUC of .99 in the metrics": "",
    "AUC of .99 over markets that have less": "test figures",
    "configuration: ε 8 → 1": "opening line, messages, plan, publications",
    "configuration: δ → 1e-9": "opening line, messages, plan, publications",
    "configuration: protect release → federation": "transcript, opening line, messages, plan, publications",
    "configuration: sampling rate": "opening line, messages, plan, publications",
    "configuration: rounds": "files, transcript, opening line, messages, plan, publications, noise meter",
    "configuration: clipping norm": "messages, plan",
    "configuration: a noise seed": "opening line, messages, plan",
    "last charge dropped, with its seal, record and model": "plan, epsilon, models and codes, noise meter",
    "CTR model of another market": "models and codes",
    "codes of another market": "models and codes",
    "another commit": "",
    "another hash of the code": "",
    "another version of PyTorch": "",
    "a sum's record zeroed": "messages, models and codes",
    "raw rows as one more record of kind `sum`": "messages, transcript",
    "`state/` edited": "",
    "hellos removed": "files, messages",
    "a whole market removed": "files, markets, messages, test figures",
    "a VIOLATED audit set to not refuted": "signed evidence",
    "ledger: all events no-op, ε = 0 stated": "plan",
    "ledger: noise × 10": "opening line, plan",
    "ledger and configuration: δ = .02 at 80 users": "opening line, messages, plan, publications",
    "ledger: rounds dropped, with their records": "files, messages, plan",
    "counts without noise": "publications",
    "a tensor of 400 rows inside the model": "publications, models and codes",
    "rows in the storage behind a tensor": "publications, models and codes",
    "rows as the constants of a CTR model": "publications",
    "rows behind the end of a file": "publications",
    "user codes among the item codes": "publications",
    "item codes that no model gives": "publications, models and codes",
    "factors of items that the counts do not choose": "publications",
    "a wider type of number": "publications",
    "RQ-VAE of another market": "models and codes",
    "counts drawn and charged twice": "plan, epsilon, noise meter",
    "a publication without a charge": "transcript",
    "a file beside the index": "files, transcript",
    "a record of a new kind": "transcript",
    "a publication recorded as seen by its owner alone": "transcript",
    "an own update changed": "messages",
    "an own update in the transcript": "transcript",
    "randomised user codes in the transcript": "transcript",
    "an update under another market's name": "messages",
    "the ledger of another market": "transcript, opening line, plan, epsilon",
    "a seal dropped": "transcript, plan, noise meter",
    "one key of randomness for two charges": "plan",
    "a charge that read other rows": "plan",
    "charges in another order": "plan",
    "spare values of half the noise": "noise meter",
    "spare values without noise": "noise meter",
    "spare values of another market": "noise meter",
    "fewer spare values": "noise meter",
    "last lines dropped": "closing line",
    "the note of earlier runs dropped": "plan",
    "the note of earlier runs with other figures": "",
    "half the ε in the statement": "epsilon",
    "rows in the comment of an archive": "publications",
    "rows before an archive": "publications",
    "rows as blanks of an array's header": "publications",
    "rows as the mechanism of a note": "plan",
    "rows as one more metric": "files",
    "rows as the name of a baseline": "files, test figures",
    "rows as one more field of the environment": "files",
    "rows as a comment in the configuration": "files",
    "a file of rows beside the models": "files",
    "a hidden file of rows": "files, transcript",
    "a folder with rows for a name": "files",
}
# An outsider cannot sign: the last lines that the owner signed do not fit what he leaves. More than that finds:
BY_OUTSIDER_TOO: Mapping[str, str] = {
    "configuration: clipping norm": "opening line",
    "another commit": "opening line",
    "another hash of the code": "opening line",
    "another version of PyTorch": "opening line",
    "rows as one more field of the environment": "opening line",
}
# Where nobody has signed for it: it is not among what a last line names.
NOT_SIGNED_FOR = (
    "`state/` edited",
    "a VIOLATED audit set to not refuted",
    "a file beside the index",
    "a file of rows beside the models",
    "a hidden file of rows",
    "a folder with rows for a name",
)
BEYOND = "beyond verification"
NO_EVIDENCE = "nothing: no evidence, and never read"


def expected(name: str, *, owner: bool) -> set[str]:
    """The checks that find a manipulation."""
    found = set(filter(None, BY_OWNER[name].split(", ")))
    if not owner and name not in NOT_SIGNED_FOR:
        found |= {"closing line", *filter(None, [BY_OUTSIDER_TOO.get(name)])}
    return found


def table() -> str:
    """What docs/verification.md shows: each manipulation, by whom, and the checks that find it."""
    lines = ["| manipulation | an outsider, who cannot sign | the owner, who signs again |", "|---|---|---|"]
    for name in MANIPULATIONS:
        cells = [", ".join(sorted(expected(name, owner=owner))) for owner in (False, True)]
        nothing = NO_EVIDENCE if name in NOT_SIGNED_FOR else BEYOND
        lines.append(f"| {name} | {cells[0] or nothing} | {cells[1] or nothing} |")
    return "\n".join(lines)
