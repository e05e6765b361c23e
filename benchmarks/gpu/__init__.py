"""All that a CUDA device must show, in one command: `python -m benchmarks.gpu`.

units.py           the list of the units of work, in the order of their worth
own_process.py     a unit in a process of its own, with a limit of time
results.py         one file for each unit, in a folder of the device
correctness.py     (a) kernels, networks, precisions, determinism and lack of memory
speed.py           (b) training steps and inference beside torchvision's
resnext.py         (c) ResNeXt beside ResNet, and each implementation of the grouped convolution
gaps.py            (d) a profile, and how long the device waits for the host
training.py        (e) trainings on data, and their AP
hours.py           (f) the hours that the presets' schedules take, from (b)
page.py            the results → one page with tables and plots
"""
