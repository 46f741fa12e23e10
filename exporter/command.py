"""What runs behind ``slimfleet export``. Starts without torch."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.export_data import read_inputs, read_labelled
from exporter.out_folder import INDEX_FILE, check_free, publish
from exporter.report import ExportReport, csv_text, index_document
from exporter.run_weights import RunError, RunWeights, read_run
from journal.user_cache import user_cache_folder
from slimmable.model import SlimmableModel
from slimmable.model_source import (
    DEFAULT_WIDTHS,
    load_from_arguments,
)
from slimmable.state import ModelState
from slimmable.width import WidthGrid

if TYPE_CHECKING:
    from exporter.file_check import Check
    from exporter.width_forms import ExportOrder

logger = logging.getLogger(__name__)

CSV_FILE, PICTURE_FILE, TEMPLATES_FOLDER = "export.csv", "front.png", ".templates"


def run(arguments: argparse.Namespace) -> ExportReport:
    """Do what the arguments say and return what was found out.

    Raises:
        ModelError: there is no such model, or it refuses its options, or it cannot be traced.
        CheckpointError: a file is unreadable, holds something else, or is of another model.
        SamplesError: the labelled samples cannot be used.
        RunError: the run does not hold such weights.
        WidthError: a width is outside what the run offers.
        OutFolderError: the folder holds files of others.
        BudgetUnmetError: no width keeps the device's budget.
        ExportError: a width cannot be exported.
        OSError: the folder cannot be written.

    Whatever is raised, the folder is as it was.
    """
    from exporter.run_export import possible_files, pretty, run_export
    from exporter.templates import TemplateCache

    order = _order(arguments)
    ours = {INDEX_FILE, CSV_FILE, PICTURE_FILE, TEMPLATES_FOLDER}
    ours |= possible_files(order.model.name, order.widths)
    check_free(arguments.out, ours, force=arguments.force)
    export = run_export(order, TemplateCache(arguments.templates or templates_folder()))
    report = export.report
    files = {
        **export.files,
        CSV_FILE: csv_text(report).encode(),
        **_picture(report),
        INDEX_FILE: pretty(index_document(report)),
    }
    publish(arguments.out, files, ours)
    return report


def check(arguments: argparse.Namespace) -> "tuple[Check, ...]":
    """Verify the file that the arguments name.

    Raises:
        CheckError: it cannot be read, or there is no manifest and --data is given.
        SamplesError: the labelled samples cannot be used.
    """
    from exporter.file_check import check_file
    from exporter.file_subject import CheckError, open_subject

    subject = open_subject(arguments.check)
    data = None
    if arguments.data is not None:
        if subject.task is None:
            raise CheckError(
                f"{arguments.check} has no {subject.manifest_name} beside it, which says what its"
                " outputs mean; leave --data out, or copy the manifest too"
            )
        data = read_labelled(
            arguments.data,
            subject.inputs,
            subject.task,
            arguments.reader,
            arguments.reader_options,
        )
    return check_file(subject, data)


def templates_folder() -> Path:
    """Return where traced graphs are kept: in the user's folder for what can be made again."""
    return user_cache_folder() / "templates"


def _order(arguments: argparse.Namespace) -> "ExportOrder":
    from exporter.width_forms import ExportOrder

    source = read_run(arguments.run_folder, arguments.round) if arguments.run_folder else None
    widths = _widths(arguments, source)
    model = _model(arguments, source, widths)
    calibration, labelled = None, None
    if arguments.calibration is not None:
        calibration = read_inputs(arguments.calibration, model.inputs)
    if arguments.data is not None:
        labelled = read_labelled(
            arguments.data, model.inputs, model.task, arguments.reader, arguments.reader_options
        )
        needed = model.spec.statistics or arguments.int8 in {"auto", "static"}
        if calibration is None and needed:
            first, labelled = labelled.split()
            calibration = first.inputs
    weights, state = _weights(arguments, model, source)
    return ExportOrder(
        model=model,
        state=state,
        widths=widths,
        weights=weights,
        fleet=source.fleet if source else "",
        round=source.round if source else 0,
        run_scores=source.scores if source else {},
        scale=arguments.scale or (source.scale if source else ""),
        calibration=calibration,
        labelled=labelled,
        int8=arguments.int8,
        max_loss=arguments.max_loss,
        budget=arguments.device_budget,
        preoptimised=arguments.preoptimised,
        threads=arguments.threads,
    )


def _widths(arguments: argparse.Namespace, source: RunWeights | None) -> tuple[float, ...]:
    if source is None:
        return tuple(arguments.widths or DEFAULT_WIDTHS)
    offered = WidthGrid.of(source.widths)
    return tuple(offered.check(width) for width in arguments.widths or source.grid)


def _model(
    arguments: argparse.Namespace, source: RunWeights | None, widths: tuple[float, ...]
) -> SlimmableModel:
    if source is not None:
        arguments.model = arguments.model or source.model
        arguments.options = arguments.options or dict(source.options)
    # The rounding of channels depends on all widths: those that are trained by default count too.
    model = load_from_arguments(arguments, sorted({*DEFAULT_WIDTHS, *widths}))
    if source is not None and model.spec.spec_hash != source.spec_hash:
        raise RunError(
            f"model {arguments.model!r} has the width spec {model.spec.spec_hash[:12]}, round"
            f" {source.round} was trained with {source.spec_hash[:12]}; install the version of the"
            " model that the server uses"
        )
    return model


def _weights(
    arguments: argparse.Namespace, model: SlimmableModel, source: RunWeights | None
) -> tuple[str, ModelState]:
    if source is not None:
        return f"round {source.round} of {arguments.run_folder}", source.state
    if arguments.checkpoint is not None:
        from slimmable.checkpoint import read_checkpoint

        return arguments.checkpoint.name, read_checkpoint(arguments.checkpoint, model.spec)
    from slimmable.evaluation import initial_state

    logger.warning(
        "no --checkpoint and no --run: %s is exported untrained, or as its function returned it",
        model.name,
    )
    return "untrained, or as the function returned them", initial_state(model, 0)


def _picture(report: ExportReport) -> dict[str, bytes]:
    from exporter.picture import draw_report

    try:
        return {PICTURE_FILE: draw_report(report)}
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        logger.warning("%s is left out: install slimfleet[monitor] for pictures", PICTURE_FILE)
        return {}
