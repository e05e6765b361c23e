"""Evaluates a detector (AP), an RPN or its stored proposals (recall), or a results file (AP)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file of a checkout, without installation
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbones.common.errors import UserError
from backbones.common.files import user_path
from detection.command_line import add_config_arguments, overrides, parser, run, whole_number

EPILOG = """examples:
  python tools/eval_coco.py --weights runs/demo/detector.pt
      the twelve COCO figures and AP per class on data.test of the detector's configuration
  python tools/eval_coco.py --weights runs/demo/detector.pt --data /path/to/coco rpn.test_proposals.after_nms=1000
      the same data in another folder, with more proposals
  python tools/eval_coco.py --weights runs/demo/rpn.pt
      recall of an RPN's proposals: AR@100/300/1000/2000, by object size
  python tools/eval_coco.py --proposals runs/demo/proposals/train.st
      recall of stored proposals
  python tools/eval_coco.py --results results.json --annotations instances_val2017.json
      AP of existing detections in COCO's results format
  python tools/eval_coco.py --results results.json --annotations instances_val2017.json --max-detections 500
      the same for images with more than 100 objects of a class; COCO's figures count at most 100 detections
  torchrun --nproc-per-node 8 tools/eval_coco.py --weights …
      on eight GPUs; the figures are the same

Other images with the detector's classes: data.test.annotations=FILE data.test.images=DIR, both relative to the current
folder or, with --data, to that folder. --data may also be a folder of other images, whose labels are found out; of one
without splits all images are measured. Each data set needs its own --output."""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    source = options_parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path, metavar="FILE", help="detector.pt (AP) or rpn.pt (proposal recall)")
    source.add_argument("--proposals", type=Path, metavar="FILE", help="a proposal store (recall)")
    source.add_argument("--results", type=Path, metavar="FILE", help="detections in COCO's results format (AP)")
    options_parser.add_argument(
        "--annotations", type=Path, metavar="FILE",
        help="ground truth, with --results; an evaluation has recorded that of its own results.json",
    )  # fmt: skip
    options_parser.add_argument(
        "--images", type=whole_number(0), metavar="N", help="number of images in the report of AP (default: 12)"
    )
    options_parser.add_argument(
        "--pictures", dest="images", type=whole_number(0), help=argparse.SUPPRESS
    )  # earlier name
    options_parser.add_argument(
        "--no-ground-truth-proposals", dest="ground_truth_proposals", action="store_const", const=False,
        help="do not run the Fast R-CNN a second time on the objects themselves, which tells what the proposals lose",
    )  # fmt: skip
    options_parser.add_argument(
        "--backend", choices=("arrays", "pycocotools"),
        help="what computes AP: arrays, our own code, or pycocotools, the reference; the figures are the same "
        "(default: arrays)",
    )  # fmt: skip
    options_parser.add_argument(
        "--max-detections", type=whole_number(11, 1_000_000), metavar="N",
        help="of a results file or a detector: how many detections per class and image count; other values than "
        "COCO's 100 give figures that cannot be compared with published ones (default: 100, or fast_rcnn.detections "
        "where that is higher)",
    )  # fmt: skip
    add_config_arguments(options_parser, config=False, output="folder for the results; by default `evaluation` "
                         "beside the weights or store")  # fmt: skip
    options = options_parser.parse_intermixed_args(arguments)

    if options.results is not None:
        from detection.evaluation.average_precision import LIMIT, average_precision
        from detection.experiment.evaluation_folder import ground_truth_of_results
        from detection.experiment.results_file import read_results

        _refuse_idle(options, "the AP of a results file", ("images", "ground_truth_proposals", "data", "output"), ("",))
        ground_truth = ground_truth_of_results(options.results, options.annotations)
        print(
            average_precision(
                ground_truth,
                read_results(options.results),
                source=str(options.results),
                limit=options.max_detections or LIMIT,
                backend=options.backend or "arrays",
            ).table()
        )
        return 0
    _refuse_idle(options, "this, whose ground truth is what the configuration names", ("annotations",))

    from detection.config_file import config_from_dict
    from detection.data.proposal_store import ProposalStore
    from detection.experiment import evaluate
    from detection.experiment.datasets import split_of_images
    from detection.experiment.model_files import TrainedDetector, load_rpn_or_detector
    from detection.experiment.stored_configuration import change_stored_config
    from detection.training.distributed import is_main, process_group
    from detection.training.run_lock import run_lock

    file = options.weights or options.proposals
    folder = user_path(options.output) if options.output else file.parent / "evaluation"
    if options.proposals is not None:
        store = ProposalStore(file)
        _refuse_idle(
            options,
            "the recall of stored proposals",
            ("images", "ground_truth_proposals", "backend", "max_detections"),
            ("backbone.", "rpn.", "fast_rcnn."),
        )
        if "config" not in store.metadata:
            raise UserError(
                f"{file}: names no data set: tools/propose.py did not write it. Make the proposals with that tool"
            )
        stored = config_from_dict(store.metadata["config"], str(file))
    else:
        trained = load_rpn_or_detector(file)
        stored = trained.config
        if not isinstance(trained, TrainedDetector):
            _refuse_idle(
                options, "the recall of an RPN, which is measured at up to 2,000 proposals an image",
                ("images", "ground_truth_proposals", "backend", "max_detections"),
                ("fast_rcnn.", "rpn.test_proposals.before_nms=", "rpn.test_proposals.after_nms="),
            )  # fmt: skip
    config = change_stored_config(stored, file, overrides(options), of_same_data=options.proposals is not None)
    time_limit = 60 * config.runtime.timeout_minutes
    with process_group(config.runtime.device, time_limit=time_limit) as device, run_lock(folder):
        if options.proposals is not None:
            table = evaluate.evaluate_store(config, store, split_of_images(config.data, store), folder).table()
        elif not isinstance(trained, TrainedDetector):
            table = evaluate.evaluate_rpn(config, trained, device, folder).table()
        else:
            images = 12 if options.images is None else options.images
            table = evaluate.evaluate_detector(
                config, trained, device, folder, images=images, backend=options.backend or "arrays",
                with_ground_truth=options.ground_truth_proposals is not False, weights=file,
                limit=options.max_detections,
            ).table()  # fmt: skip
        if is_main():
            print(table)
            print(f"\nwritten: {folder}")
    return 0


def _refuse_idle(options: argparse.Namespace, figures: str, names: tuple[str, ...], keys: tuple[str, ...] = ()) -> None:
    """Raises a `UserError` for options that would not change the figures.

    names: of options. keys: prefixes of key=value.
    """
    spelled = {"ground_truth_proposals": "no-ground-truth-proposals"}
    idle = [f"--{spelled.get(name, name).replace('_', '-')}" for name in names if getattr(options, name) is not None]
    idle += [text for text in options.overrides if text.startswith(keys)]
    if idle:
        raise UserError(f"{', '.join(idle)} would change nothing about {figures}; leave it out")


if __name__ == "__main__":
    sys.exit(run(main))
