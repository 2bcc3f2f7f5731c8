"""The review of the CUDA kernels: what is read from cuobjdump's reports, the occupancy, and the launches."""

import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.kernels import launches, sass, tables
from bench.kernels.sass import Compiled
from bench.reports.layout import fill

USAGE = """
Resource usage:
 Common:
  GLOBAL:28 CONSTANT[4]:224
 Function _Z5firstv:
  REG:64 STACK:24 SHARED:2904 LOCAL:0 CONSTANT[0]:640 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z6secondv:
  REG:18 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:600 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
CODE = """
\tcode for sm_90
\t\tFunction : _Z5firstv
\t.headerflags\t@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                        /* 0x00000a00ff017b82 */
                                                                                 /* 0x000ff00000000800 */
        /*01d0*/              @!P3 LDG.E.128 R8, desc[UR6][R48.64] ;             /* 0x0000000630087981 */
        /*01e0*/                   LDG.E.128.CONSTANT R8, desc[UR6][R4.64] ;     /* 0x0000000630087981 */
        /*01f0*/              @UP0 LDG.E.U16 R8, desc[UR6][R4.64] ;              /* 0x0000000630087981 */
        /*0200*/                   LDG.E R8, desc[UR6][R4.64] ;                  /* 0x0000000630087981 */
        /*0210*/                   DADD R2, R4, -R6 ;                            /* 0x0000000630087981 */
        /*0220*/               @P0 STL.64 [R1+0x8], R44 ;                        /* 0x0000000630087981 */
        /*0230*/                   LDL.LU R3, [R1+0x8] ;                         /* 0x0000000630087981 */
        /*0240*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;                 /* 0x0000000630087981 */
        /*0250*/                   REDUX.SUM UR4, R2 ;                           /* 0x0000000630087981 */
        /*10260*/                  STG.E.64 desc[UR6][R48.64], R8 ;              /* 0x0000000630087981 */
\t\tFunction : _Z6secondv
        /*0000*/                   ATOMG.E.ADD.STRONG.GPU PT, R5, desc[UR4][R2.64], R7 ; /* 0x0 */
        /*0010*/                   STG.E.U8 desc[UR4][R2.64], R5 ;               /* 0x0000000630087981 */
        /*0020*/                   EXIT ;                                        /* 0x0000000630087981 */
"""


def test_cuobjdump_is_read():
    resources, code = sass.usage(USAGE), sass.instructions(CODE.splitlines())
    assert set(resources) == set(code) == {"_Z5firstv", "_Z6secondv"}
    first = sass.compiled("first", resources["_Z5firstv"], code["_Z5firstv"])
    assert (first.registers, first.stack, first.shared) == (64, 24, 2904)
    assert first.loads == {16: 2, 4: 1, 2: 1} and first.stores == {8: 1}
    assert (first.spill_stores, first.spill_loads, first.barriers, first.doubles) == (1, 1, 1, 1)
    assert first.atomics == 0  # REDUX is a reduction among the lanes of a warp
    second = sass.compiled("second", resources["_Z6secondv"], code["_Z6secondv"])
    assert second.atomics == 1 and second.stores == {1: 1} and second.loads == {} and second.spill_stores == 0


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "blocks", "limit"),
    [
        (256, 32, 0, 8, "warps"),  # 2,048 threads of 32 registers are all there is
        (256, 33, 0, 6, "registers"),  # allocated as 40; 48 warps
        (256, 255, 0, 1, "registers"),
        (1024, 64, 2904, 1, "registers"),
        (512, 72, 0, 1, "registers"),  # 28 warps would fit, blocks have 16
        (32, 16, 0, 32, "blocks"),
        (512, 32, 36_864 + 2000, 4, "warps"),
        (128, 32, 36_864 + 2000, 5, "shared memory"),
        (512, 40, 226 * 1024, 1, "shared memory"),
    ],
)
def test_occupancy(threads, registers, shared, blocks, limit):
    found = sass.occupancy(threads, registers, shared)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.warps == blocks * threads // 32 and found.share == found.warps / 64


OF_THE_TOOLKIT = r"""
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
  cudaOccDeviceProp device;
  device.computeMajor = 9, device.computeMinor = 0, device.numSms = 132, device.warpSize = 32;
  device.maxThreadsPerBlock = 1024, device.maxThreadsPerMultiprocessor = 2048;
  device.regsPerBlock = 65536, device.regsPerMultiprocessor = 65536;
  device.sharedMemPerBlock = 48 << 10, device.sharedMemPerMultiprocessor = 228 << 10;
  device.sharedMemPerBlockOptin = 227 << 10, device.reservedSharedMemPerBlock = 1 << 10;
  cudaOccDeviceState state;
  state.carveoutConfig = 100;
  for (int threads = 32; threads <= 1024; threads += 32)
    for (int registers = 16; registers <= 255; ++registers)
      for (int shared = 0; shared <= 200000; shared += shared < 4000 ? 500 : 9000) {
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.sharedSizeBytes = 0;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = 227 << 10;
        kernel.numBlockBarriers = 1;
        cudaOccResult found;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&found, &device, &kernel, &state, threads, shared)) return 1;
        printf("%d %d %d %d\n", threads, registers, shared, found.activeBlocksPerMultiprocessor);
      }
}
"""


def test_occupancy_is_that_of_the_toolkit(tmp_path):
    triton = find_spec("triton")
    places = [Path("/usr/local/cuda/include")]
    places += [Path(triton.origin).parent / "backends/nvidia/include"] if triton and triton.origin else []
    headers = [place for place in places if (place / "cuda_occupancy.h").exists()]
    if not headers or shutil.which("g++") is None:
        pytest.skip("needs g++ and the toolkit's cuda_occupancy.h")
    (tmp_path / "blocks.cpp").write_text(OF_THE_TOOLKIT)
    subprocess.run(["g++", f"-I{headers[0]}", "blocks.cpp", "-o", "blocks"], cwd=tmp_path, check=True)
    lines = subprocess.run([tmp_path / "blocks"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 230_400
    for line in lines:
        threads, registers, shared, blocks = map(int, line.split())
        assert sass.occupancy(threads, registers, shared).blocks == blocks


def test_names_read_as_in_the_source():
    assert sass.plain_name("ball_start_kernel<generic::half16, (Norm)2, true>") == "ball_start_kernel<half16, l1, true>"


def test_launches_come_from_the_source():
    launch = launches.launch_of
    assert launch("linf step", {"batch": 128, "n": 3072}) == launches.Launch(
        "linf_step_kernel<float, 4, true, false>", 192, 256, 0
    )
    assert launch("l2 step", {"batch": 7, "n": 3072}).kernel == "l2_step_in_registers<256, 3, true>"
    assert launch("l2 step", {"batch": 7, "n": 3076}).kernel == "l2_step_in_registers<512, 3, true>"
    assert launch("l2 step", {"batch": 7, "n": 12_292}).kernel == "l2_step_streamed<float, 4, 512, true, false>"
    assert launch("l1 step", {"batch": 7, "n": 19_198}, 2000).shared == 12 * 19_198
    assert launch("l1 step", {"batch": 7, "n": 19_199}, 2000) == launches.Launch(
        "l1_step_kernel<float, true, false, false>", 7, 512, 0
    )
    assert launch("attack loss", {"rows": 33, "classes": 10}).grid == 3
    assert launch("HR weights", {"n": 10**9}) == launches.Launch("holistic_block<float, 512>", 1, 512, 0)


@pytest.mark.parametrize("op", launches.OPS)
def test_every_route_is_in_the_source(op):
    source = (launches.CUDA / launches.OPS[op].source).read_text()
    for route in launches.OPS[op].routes:
        launches.configuration(source, route.launch)
        if route.condition:
            launches.quoted(source, route.condition)
    for sizes in tables.INPUTS[op]:
        found = launches.launch_of(op, sizes, storage=2000)
        assert found.block == launches.block_size(found.kernel) and found.grid > 0
        assert tables.is_float32(found.kernel) and tables.design_of(found.kernel)


def test_a_source_that_has_moved_on_is_refused():
    with pytest.raises(SystemExit, match="out of date"):
        launches.quoted("if (a.n <= 512)", "a.n <= 256")
    with pytest.raises(SystemExit, match="out of date"):
        launches.configuration("other<T><<<1, 32, 0, s>>>(a)", "kernel<T>")
    with pytest.raises(SystemExit, match="no entry"):
        tables.design_of("unheard_of<float>")


def test_tables():
    def kernel(name: str, registers: int, spills: int) -> Compiled:
        return Compiled(name, registers, 8 * spills, 0, Counter({16: 6}), Counter({16: 2}), spills, spills, 0, 0, 0)

    found = [kernel("linf_step_kernel<float, 4, true, false>", 40, 0), kernel("scale_elements<double>", 18, 1)]
    rows = tables.kernels_table(found).splitlines()
    assert len(rows) == 3 and "75%, registers" in rows[2] and "6 x 16" in rows[2] and "16 / 16" in rows[2]
    extremes = tables.extremes_table(found)
    assert "most registers of a thread" in extremes and "`scale_elements<double>`" in extremes
    page = "a\n<!-- one:begin -->\nold\n<!-- one:end -->\nb\n"
    assert fill(page, {"one": "new"}) == page.replace("old", "new")
    with pytest.raises(SystemExit, match="no one place"):
        fill(page, {"two": ""})
