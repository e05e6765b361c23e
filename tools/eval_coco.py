"""Measures what was trained: AP of a detector, recall of proposals, or AP of a results file."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout, without installation

from detection.command_line import add_config_arguments, overrides, parser, run
from detection.errors import UserError

EPILOG = """examples:
  python tools/eval_coco.py --weights runs/demo/detector.pt
      the twelve COCO figures and AP per class on the split that the detector's configuration calls test
  python tools/eval_coco.py --weights runs/demo/detector.pt --data /path/to/coco rpn.test_proposals.after_nms=1000
      the same data elsewhere, more proposals
  python tools/eval_coco.py --weights runs/demo/rpn.pt
      recall of an RPN's proposals: AR@100/300/1000/2000, by object size
  python tools/eval_coco.py --proposals runs/demo/proposals/train.st
      recall of stored proposals
  python tools/eval_coco.py --results results.json --annotations instances_val2017.json
      AP of detections that exist already, in COCO's results format
  torchrun --nproc-per-node 8 tools/eval_coco.py --weights …
      on eight GPUs; the figures are the same to the last digit"""


def main(arguments: list[str] | None = None) -> int:
    options_parser = parser(__doc__ or "", EPILOG)
    source = options_parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path, metavar="FILE", help="detector.pt (AP) or rpn.pt (proposal recall)")
    source.add_argument("--proposals", type=Path, metavar="FILE", help="a proposal store (recall)")
    source.add_argument("--results", type=Path, metavar="FILE", help="detections in COCO's results format (AP)")
    options_parser.add_argument("--annotations", type=Path, metavar="FILE", help="ground truth, with --results")
    options_parser.add_argument(
        "--pictures", type=int, default=12, metavar="N", help="pictures that the report shows (default: 12)"
    )
    add_config_arguments(options_parser, config=False, output="folder of what is written; by default `evaluation` "
                         "beside the weights or store")  # fmt: skip
    options = options_parser.parse_intermixed_args(arguments)

    from detection import evaluate

    if options.results is not None:
        if options.annotations is None:
            raise UserError("--results needs --annotations FILE, the ground truth")
        print(evaluate.evaluate_results(options.results, options.annotations).table())
        return 0

    from detection.config_file import change_config, config_from_dict
    from detection.data.proposal_store import ProposalStore
    from detection.model_files import load_trained
    from detection.splits import split_of_pictures
    from detection.training.distributed import is_main, process_group

    file = options.weights or options.proposals
    folder = Path(options.output) if options.output else file.parent / "evaluation"
    if options.proposals is not None:
        store = ProposalStore.open(file)
        config = change_config(config_from_dict(store.metadata["config"], str(file)), overrides(options))
    else:
        trained = load_trained(file, "detector", "rpn")
        config = change_config(trained.config, overrides(options))
    with process_group(config.runtime.device, time_limit=60 * config.runtime.timeout_minutes) as device:
        if options.proposals is not None:
            table = evaluate.evaluate_store(config, store, split_of_pictures(config.data, store), folder).table()
        elif trained.fast_rcnn is None:
            table = evaluate.evaluate_rpn(config, trained, device, folder).table()
        else:
            table = evaluate.evaluate_detector(config, trained, device, folder, pictures=options.pictures).table()
        if is_main():
            print(table)
            print(f"\nwritten: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
