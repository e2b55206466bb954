"""The facts of a machine with Ascend NPUs: files as CANN's installers leave them, and npu-smi's table."""

from __future__ import annotations

import sys

import pytest

from mszoo.registry.ascend.machine import read_machine
from mszoo.registry.ascend.npu_smi import Chip, parse, read_chips

A2 = """
+------------------------------------------------------------------------------------------------+
| npu-smi 25.0.rc1.1               Version: 25.0.rc1.1                                           |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B2               | OK            | 95.5        43                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3414 / 65536         |
+===========================+===============+====================================================+
| 1     910B2               | OK            | 95.7        44                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          61258/ 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 0                                                            |
| 1       0                 | 99910         |                          | 57844                   |
+===========================+===============+====================================================+
"""
A3 = """
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 0     Ascend910           | OK            | 164.4       48                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          26690/ 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           47                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          26457/ 65536         |
"""
DUO = """
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
| 5       310P3                 | OK              | NA           41                0     / 0             |
| 0       0                     | 0000:06:00.0    | 0            1596 / 44280                            |
"""


@pytest.mark.parametrize(
    ("table", "chips"),
    [
        (A2, (Chip("910B2", 3414, 65536), Chip("910B2", 61258, 65536))),
        (A3, (Chip("Ascend910", 26690, 65536), Chip("Ascend910", 26457, 65536))),
        (DUO, (Chip("310P3", 1596, 44280),)),
        ("dcmi model initialized failed, because the device is used. ret is -8020", ()),
        ("", ()),
    ],
    ids=["A2", "A3", "300I DUO", "error", "nothing"],
)
def test_the_table_of_npu_smi(table, chips):
    assert parse(table) == chips


def test_npu_smi_is_asked(tmp_path, monkeypatch):
    program = tmp_path / "npu-smi"
    program.write_text(f"#!{sys.executable}\nimport sys\nassert sys.argv[1:] == ['info']\nprint({A3!r})\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [chip.free for chip in read_chips()] == [38846, 39079]
    program.write_text(f"#!{sys.executable}\nprint({A3!r})\nraise SystemExit(1)\n")
    assert read_chips() == ()
    program.unlink()
    assert read_chips() == ()


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "version"),
    [
        (
            {
                "version.cfg": "# version: 1.0\nruntime_running_version=[7.7.T20.0.B210:8.1.RC1]\n"
                "toolkit_running_version=[7.7.T20.0.B210:8.1.RC1]\n",
                "compiler/version.info": "Version=7.7.T20.0.B210\n",
            },
            "8.1.RC1",
        ),
        (
            {
                "aarch64-linux/ascend_toolkit_install.info": "package_name=Ascend-cann-toolkit\nversion=9.1.0\n"
                "innerversion=V100R001C23\narch=aarch64\n",
                "share/info/runtime/version.info": "Version=9.1.0.1.2\n",
            },
            "9.1.0",
        ),
        ({"share/info/runtime/version.info": "timestamp=2026\nVersion=9.1.0\n"}, "9.1.0"),
        ({"compiler/version.info": "Version=8.5.0.1.200\n"}, "8.5.0.1.200"),
        ({"version.cfg": "nothing of use\n"}, None),
        ({}, None),
    ],
    ids=["version.cfg", "install.info", "share/info", "compiler", "unreadable", "empty"],
)
def test_the_version_of_cann(tmp_path, files, version):
    home = tmp_path / "cann"
    write(home, files)
    for variable in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        machine = read_machine({variable: str(home)}, tmp_path, npu_smi=False)
        assert (machine.cann_home, machine.cann) == (str(home), version)


def test_a_machine_by_its_files(tmp_path):
    write(
        tmp_path,
        {
            "dev/davinci0": "",
            "dev/davinci11": "",
            "dev/davinci_manager": "",
            "usr/local/Ascend/cann/set_env.sh": "",
            "usr/local/Ascend/nnal/atb/set_env.sh": "",
            "usr/local/Ascend/nnal/atb/9.1.0/version.info": "    Ascend-cann-atb : 9.1.0\n"
            "    Ascend-cann-atb Version : 9.1.0.B020\n",
            "usr/local/Ascend/driver/version.info": "package_version=26.0.rc1\nVersion=26.0.rc1\n",
        },
    )
    atb = tmp_path / "usr/local/Ascend/nnal/atb/9.1.0/atb/cxx_abi_1"
    atb.mkdir(parents=True)
    machine = read_machine({"ATB_HOME_PATH": str(atb)}, tmp_path, npu_smi=False)
    assert (machine.npus, machine.driver, machine.nnal) == (2, "26.0.rc1", "9.1.0")
    assert machine.cann_script == "/usr/local/Ascend/cann/set_env.sh"
    assert machine.nnal_script == "/usr/local/Ascend/nnal/atb/set_env.sh"
    assert (machine.cann_home, machine.cann, machine.chips) == (None, None, ())
    assert machine.mindspore  # the wheel on PyPI has it
    assert read_machine({"ATB_HOME_PATH": str(tmp_path)}, tmp_path, npu_smi=False).nnal == ""


def test_what_vllm_ascend_was_built_for(tmp_path, monkeypatch):
    write(
        tmp_path / "site",
        {
            "vllm_ascend/__init__.py": "raise ImportError('it is not to be imported')",
            "vllm_ascend/_build_info.py": "# Auto-generated file\n__device_type__ = 'A3'\n",
            "vllm_ascend/vllm_ascend_C.cpython-27-x86_64-linux-gnu.so": "",
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    machine = read_machine({}, tmp_path, npu_smi=False)
    assert (machine.built_for, machine.compiled) == ("A3", False)
    name = f"vllm_ascend/vllm_ascend_C.{sys.implementation.cache_tag}-aarch64-linux-gnu.so"
    write(tmp_path / "site", {name: ""})
    assert read_machine({}, tmp_path, npu_smi=False).compiled
