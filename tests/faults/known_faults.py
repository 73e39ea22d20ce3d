"""What is tried: each fault in plain words, what must happen, and the tests elsewhere that stand for one."""

# A fault, and what must happen.
FAULTS = {
    # Training
    "kill -9 of a training at random steps, again and again":
        "the next call goes on; the end has the bits of a run that nobody cut off",
    "kill -9 while a checkpoint is being saved":
        "a whole checkpoint always loads; what the save left behind is swept up",
    "kill -9 while a run puts a file in its place":
        "each file is whole or not there; the end has the same bits",
    "killed after the last checkpoint, before the result":
        "no further step; the result is written, with the same bytes",
    "SIGTERM or SIGINT in the middle of a training":
        "it stops within a step, keeps every saved epoch, and goes on to the same bits",
    "disk full while a checkpoint, table, figure or notebook is written":
        "an error that names the file; the former file stays whole; no partial one is left",
    "NaN or infinity in a pixel, the loss or a gradient":
        "an error before the optimiser steps, with step and images; the weights stay as they were",
    "two processes on one run":
        "it is done once; both have its result",
    # Files of the kit
    "a checkpoint cut short":
        "it is named; the run goes on from the one before, to the same bits",
    "one flipped bit in a checkpoint":
        "found before a tensor is used; the checkpoint before it is loaded",
    "a checkpoint of another run, or with wrong tensors":
        "one error with every difference; nothing is loaded",
    "asked to resume without a sound checkpoint":
        "an error, never a silent restart",
    "one flipped bit in a saved classifier":
        "refused before a tensor is used",
    "a saved classifier that was tampered with, or is for another network":
        "refused with what differs",
    "a pickle that runs code, in the place of a file that is read":
        "its code does not run",
    "a result file that was cut or edited":
        "it counts as not there and is written anew; an edited table is refused with line and column",
    "a table file that holds itself, is nested without end, or holds code":
        "refused in one sentence, at once",
    # Data
    "a damaged image":
        "refused with the reason, or read as the picture that it was; all bad files are named before training",
    "damaged EXIF":
        "the picture is there, in one of the eight ways to turn it",
    "class folders that do not fit":
        "one sentence, with both lists of classes",
    "the same picture in two splits":
        "refused, with both names",
    "a link that leads out of a folder of images":
        "refused with its name, or hashed and read as the picture that it shows",
    "a public data set that is half there, or has wrong lists":
        "one sentence with what is missing and the way out",
    "a download that is broken off, or not the published file":
        "one sentence; nothing is left that could pass for the data",
    "images, widths, regions or temperatures out of range":
        "an error with what was expected",
    "a wrong install":
        "one message, with the command that mends it",
    # Notebooks and sweeps
    "a notebook whose kernel is killed":
        "it is done again, once; killed again, it is told as failed, never as done",
    "a notebook that ends badly in another way":
        "told as failed, never as done; what there is stays",
    "two processes on one notebook of the series":
        "both end well, with one whole result",
    "a worker killed in a sweep":
        "its run is done again, and the rest goes on",
    "nanny or scheduler killed in a sweep":
        "the sweep ends with one sentence; what is finished is kept",
    "a sweep that is interrupted or killed":
        "no kernel and no worker outlives it",
    "two sweeps at once on the same runs":
        "each run is done once",
}  # fmt: skip

# Tests in other folders that stand for a fault.
ELSEWHERE = {
    "test_checkpoints.py::test_r5_write_that_stops_half_way_leaves_the_former_checkpoint":
        "disk full while a checkpoint, table, figure or notebook is written",
    "test_experiment.py::test_damaged_result_is_named_counts_as_not_there_and_is_written_anew":
        "a result file that was cut or edited",
    "test_grids.py::test_a_file_that_is_no_table_is_refused_with_one_sentence":
        "a table file that holds itself, is nested without end, or holds code",
    "test_images.py::test_d1_file_that_cannot_be_used_is_an_error_that_says_why":
        "a damaged image",
    "test_images.py::test_picture_with_damaged_exif_is_upright":
        "damaged EXIF",
    "test_install.py::test_torch_and_torchvision_of_different_builds_are_one_sentence":
        "a wrong install",
    "test_install.py::test_what_does_not_fit_is_named_with_the_command_that_mends_it":
        "a wrong install",
    "test_models.py::test_s1_a_pickle_in_a_folder_is_not_run":
        "a pickle that runs code, in the place of a file that is read",
    "test_models.py::test_s1_a_pickle_in_torchvisions_cache_is_not_run":
        "a pickle that runs code, in the place of a file that is read",
    "test_results.py::test_a_cell_that_cannot_be_read_is_refused_with_file_line_and_column":
        "a result file that was cut or edited",
    "test_series.py::test_a_kernel_that_was_killed_after_the_result_is_a_failure":
        "a notebook whose kernel is killed",
    "test_series.py::test_a_kernel_that_was_killed_once_is_started_again":
        "a notebook whose kernel is killed",
    "test_series.py::test_of_two_processes_one_waits_and_takes_what_the_other_has_finished":
        "two processes on one notebook of the series",
    "test_training.py::test_n1_value_that_is_not_finite_stops_the_run_before_the_step":
        "NaN or infinity in a pixel, the loss or a gradient",
}  # fmt: skip
