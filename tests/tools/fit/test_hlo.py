"""Exchanges are read from compiled text as the TPU compiler writes it, cut to what matters."""

import pytest

from memjax.tools.fit.collectives import Group, group_of, read_collectives
from memjax.tools.fit.hlo import computations, loops

ONE_SLICE = [0] * 8
MESH = "replica_groups=mesh['axis_0'=1,'axis_1'=8] {'axis_1'}"


def entry(*lines, before=""):
    body = "\n".join(f"  {line}" for line in lines)
    head = "HloModule jit_step, is_scheduled=true"
    return f"{head}\n{before}\nENTRY %main (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"


GATHER = (
    "%all-gather.1 = bf16[128,64]{1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=4, "
    f'{MESH}, dimensions={{0}}, metadata={{op_name="jit(step)/jvp()/sharding_constraint"}}'
)
# An exchange beside arithmetic: start, middle and end carry the same chain.
PIECE = (
    "bf16[128,128]{0,1:T(8,128)(2,1)S(1)} all-gather(%param_0), channel_id=4, "
    f'{MESH}, dimensions={{1}}, frontend_attributes={{chain_id="0"}}'
)
CHAIN = f"""
%fused_computation.1 (param_0: bf16[128,16]) -> (bf16[128,128]) {{
  %all-gather.99 = {PIECE}, metadata={{op_name="jit(step)/gather"}}
}}

%async_collective_fusion.2 (param_0: bf16[128,16], param_1: f32[8]) -> (f32[8], bf16[128,128]) {{
  %all-gather.101 = {PIECE}
}}
"""
BOTH = "(f32[128,128]{0,1:T(8,128)}, /*index=1*/f32[64,512]{1,0:T(8,128)})"
SCATTER = f"""
%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %sum = f32[] add(%a, %b)
}}

%all-reduce-scatter.14 (input_0: f32[128,128], input_1: f32[64,512]) -> (f32[128,16], f32[8,512]) {{
  %all-reduce.230 = {BOTH} all-reduce(%input_0, %input_1), channel_id=1, {MESH}, to_apply=%add
}}
"""
PAIRS = "replica_groups={{0,1},{2,3},{4,5},{6,7}}"
LOOP = f"""
%cond (state: (s32[], f32[4])) -> pred[] {{
  %state = (s32[], f32[4]) parameter(0)
  %bound = s32[]{{:T(128)}} constant(12)
  %now = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%now, %bound), direction=LT
}}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %all-reduce.1 = f32[4]{{0}} all-reduce(%x), channel_id=1, {PAIRS}, to_apply=%add
}}
"""


# What a kernel is told is written on lines of its own, one of them beginning as an end does.
KERNEL = """%splash.1 = bf16[4,64]{1,0} custom-call(%p.1), frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/attention/pallas_call"}"""


def looped(start):
    return entry(
        f"%start = s32[]{{:T(128)}} constant({start})",
        "%copied = s32[]{:T(128)} copy(%start), backend_config={}",
        "%tuple.1 = (s32[], f32[4]) tuple(%copied, %p)",
        "%while.1 = (s32[], f32[4]) while(%tuple.1), condition=%cond, body=%body",
        before=LOOP,
    )


def only(text, slice_of=ONE_SLICE):
    (one,) = read_collectives(text, slice_of)
    return one


def test_a_gather_is_what_the_group_holds_together():
    one = only(entry(GATHER))
    assert (one.kind, one.group, one.times, one.crosses) == ("all-gather", 8, 1, False)
    assert one.bytes == 128 * 64 * 2
    assert one.received == one.bytes * 7 / 8
    assert one.name == "jit(step)/jvp()/sharding_constraint"


def test_started_gathers_count_their_results_and_finishing_counts_nothing():
    start = (
        "%ag = ((f32[4]{0}, f32[2,8]{1,0}), (f32[32]{0}, f32[16,8]{1,0})) "
        f"all-gather-start(%a, %b), channel_id=1, {MESH}, dimensions={{0}}"
    )
    done = "%agd = (f32[32]{0}, f32[16,8]{1,0}) all-gather-done(%ag)"
    one = only(entry(start, done))
    assert one.bytes == (32 + 128) * 4


def test_started_permutations_count_one_side():
    start = (
        "%cp = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) "
        "collective-permute-start(%a), channel_id=1, source_target_pairs={{0,1},{1,0}}"
    )
    one = only(entry(start, "%d = bf16[4,8]{1,0} collective-permute-done(%cp)"))
    assert one.bytes == one.received == 4 * 8 * 2


def test_an_exchange_in_pieces_counts_once():
    text = entry(
        "%f.1 = (bf16[128,128]) fusion(%p), kind=kLoop, calls=%fused_computation.1",
        "%f.2 = (f32[8], bf16[128,128]) fusion(%p, %q), calls=%async_collective_fusion.2",
        "%f.3 = (f32[8], bf16[128,128]) fusion(%p, %q), calls=%async_collective_fusion.2",
        before=CHAIN,
    )
    assert only(text).bytes == 128 * 128 * 2


def test_a_hidden_reduce_scatter_is_one():
    fusion = (
        "%fusion.16 = (f32[128,16], f32[8,512]) fusion(%a, %b), kind=kCustom, "
        'calls=%all-reduce-scatter.14, metadata={op_name="jit(step)/transpose(jvp())/dot"}'
    )
    one = only(entry(fusion, before=SCATTER))
    assert one.kind == "reduce-scatter"
    assert one.bytes == 4 * (128 * 128 + 64 * 512)
    assert one.received == one.bytes * 7 / 8
    assert one.name == "jit(step)/transpose(jvp())/dot"


def test_a_plain_reduce_scatter_counts_its_inputs():
    lines = (
        "%whole = bf16[1024,16]{1,0} parameter(0)",
        f"%rs = bf16[128,16]{{1,0}} reduce-scatter(%whole), channel_id=2, {MESH}, dimensions={{0}}",
    )
    assert only(entry(*lines)).bytes == 1024 * 16 * 2


def test_an_all_reduce_goes_round_twice():
    one = only(entry(f"%ar = f32[8,8]{{1,0}} all-reduce(%a), channel_id=3, {MESH}, to_apply=%add"))
    assert one.received == 2 * 7 / 8 * 256


@pytest.mark.parametrize(("start", "trips"), [(0, 12), (1, 11)])
def test_loops_multiply_by_what_they_count(start, trips):
    one = only(looped(start))
    assert loops(looped(start)) == [trips]
    assert (one.times, one.sure, one.group) == (trips, True, 2)
    assert one.bytes == trips * 16


def test_an_unrolled_loop_counts_by_two():
    """As the compiler writes a reduce-scatter that runs beside the products it sums."""
    last = """
  %two = s32[] constant(2)
  %at = s32[] get-tuple-element(%state), index=0
  %next = s32[] add(%at, %two)
  ROOT %out = (s32[], f32[4]) tuple(%next, %all-reduce.1)
}
"""
    assert loops(looped(0).replace("to_apply=%add\n}\n", f"to_apply=%add{last}")) == [6]
    assert loops(looped(1).replace("to_apply=%add\n}\n", f"to_apply=%add{last}")) == [6]


def test_a_loop_the_compiler_noted_needs_no_reading():
    noted = 'backend_config={"known_trip_count":{"n":"5"},"known_init_step":{}}'
    text = looped(0).replace("body=%body", f"body=%body, {noted}")
    assert loops(text) == [5]


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    text = looped(0).replace("direction=LT", "direction=NE")
    one = only(text)
    assert loops(text) == [None]
    assert (one.times, one.sure) == (1, False)


def test_an_exchange_between_slices_is_the_receive_of_one():
    attributes = (
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_host_transfer_rendezvous="all-reduce.3_0",_xla_megascale_target="{1,2}x{0:7}",'
        '_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    send = f"%s = (bf16[128,8]{{1,0}}, u32[], token[]) send(%a, %t), channel_id=2, {attributes}"
    recv = f"%r = (bf16[128,8]{{1,0}}, u32[], token[]) recv(%t), channel_id=1, {attributes}"
    one = only(entry(send, recv), [0] * 8 + [1] * 8)
    assert (one.kind, one.group, one.crosses) == ("all-reduce", 2, True)
    assert one.received == one.bytes == 128 * 8 * 2


def test_what_follows_a_kernel_is_read_too():
    text = entry(KERNEL, GATHER)
    (found,) = read_collectives(text, ONE_SLICE)
    assert found.kind == "all-gather"
    instructions, name = computations(text)
    kernel, gather = instructions[name]
    assert (kernel.name, gather.name) == ("splash.1", "all-gather.1")
    assert "jit(step)/attention/pallas_call" in kernel.rest


def test_a_computation_of_another_thread_ends():
    before = "%beside (x: f32[4]) -> f32[4] {\n  %y = f32[4] copy(%x)\n"
    before += '}, execution_thread="sparsecore"\n  %stray = f32[4] copy(%x)'
    instructions, _ = computations(entry(GATHER, before=before))
    assert [line.name for line in instructions["beside"]] == ["y"]


def test_a_device_alone_exchanges_nothing():
    alone = "%ar = f32[8]{0} all-reduce(%a), channel_id=3, replica_groups={{0},{1}}, to_apply=%add"
    assert read_collectives(entry(alone), [0, 0]) == []


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no entry"):
        read_collectives("HloModule cut\n", ONE_SLICE)


GROUPS = {
    "replica_groups={{0,1,2,3},{4,5,6,7}}": (4, False),
    "replica_groups={{0,4},{1,5},{2,6},{3,7}}": (2, True),
    "replica_groups=[2,4]<=[8]": (4, False),
    "replica_groups=[4,2]<=[2,4]T(1,0)": (2, True),
    "replica_groups=mesh['a'=2,'b'=4] {'b'}": (4, False),
    "replica_groups=mesh['a'=2,'b'=4] {'a'}": (2, True),
    "replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b','c'}": (4, False),
    "replica_groups={}": (8, True),
    "channel_id=1": (8, True),
    "source_target_pairs={{0,1},{1,2},{2,0}}": (2, False),
    "source_target_pairs={{0,4},{4,0}}": (2, True),
}


@pytest.mark.parametrize("text", GROUPS)
def test_groups_in_all_notations(text):
    """Eight devices in two slices of four."""
    assert group_of(f"{text}, dimensions={{0}}", [0] * 4 + [1] * 4) == Group(*GROUPS[text])
