#!/usr/bin/env bash
# Sourced by scripts/launch.sh: which profiler watches a run, whether it can, and the command that it is started with.
#
# All of them see the same steps: those that run_pretraining.py and run_squad.py take between cudaProfilerStart and
# cudaProfilerStop (--profile-start, --profile-steps), or, for torch, record themselves.

PROFILER=${PROFILER:-}                          # nsys, ncu or torch: what some steps are profiled with, in OUTPUT_DIR/profile
LAUNCH_COUNT=${LAUNCH_COUNT:-2500}              # ncu: kernels that are measured, at most; a step of BERT-large has 2,000
CLOCK_CONTROL=${CLOCK_CONTROL:-none}            # ncu: base holds the GPU at its base clock, none leaves the clocks alone

check_profiler() { # what is wrong with PROFILER goes to `problems`
  case $PROFILER in
    '' | torch) ;;
    nvprof)
      echo "nvprof does not run on GPUs of compute capability 8.0 and up; Nsight Systems (nsys) takes its place." >&2
      PROFILER=nsys
      check_profiler
      ;;
    nsys) command -v nsys >/dev/null || problems+=("PROFILER is nsys, and there is no nsys on the PATH; install Nsight Systems, or take torch.") ;;
    ncu) check_ncu ;;
    *) problems+=("PROFILER is '$PROFILER'; set it to nsys, ncu or torch, or leave it empty.") ;;
  esac
}

check_ncu() {
  if ! command -v ncu >/dev/null; then
    problems+=("PROFILER is ncu, and there is no ncu on the PATH; install Nsight Compute, or take torch.")
  fi
  [[ $LAUNCH_COUNT =~ ^[1-9][0-9]*$ ]] || problems+=("LAUNCH_COUNT is '$LAUNCH_COUNT'; set it to a whole number from 1 on.")
  [[ $CLOCK_CONTROL == base || $CLOCK_CONTROL == none ]] || problems+=("CLOCK_CONTROL is '$CLOCK_CONTROL'; set it to base or none.")
  if may_not_read_counters; then
    problems+=("The driver lets only administrators read the GPU's counters (ERR_NVGPUCTRPERM); run as root, give the container --cap-add SYS_ADMIN (start_container.sh --profile), or load the nvidia module with NVreg_RestrictProfilingToAdminUsers=0.")
  fi
}

may_not_read_counters() { # whether that is certain
  (cd "$PROJECT_DIR" && python3 -c 'import sys; from training.environment.description import may_read_gpu_counters
sys.exit(may_read_gpu_counters() is not False)') 2>/dev/null
}

# shellcheck disable=SC2034  # they are variables of launch, which calls this
profiler_command() { # fills `profiler`, what the run is started through, and `profile`, the flags it is given
  profile=() profiler=()
  if [[ -z $PROFILER ]]; then return; fi
  local folder=$OUTPUT_DIR/profile metrics
  case $PROFILER in
    torch) profile=(--profile torch) ;;
    nsys)
      profile=(--profile)
      mkdir -p "$folder"
      # Of a CUDA graph, too, each kernel.
      profiler=(nsys profile '--trace=cuda,nvtx,osrt,cudnn,cublas' '--cuda-graph-trace=node' --capture-range cudaProfilerApi
        --capture-range-end stop --force-overwrite true --export sqlite --output "$folder/nsys")
      ;;
    ncu)
      profile=(--profile)
      mkdir -p "$folder"
      rm -f "$folder/ncu.ncu-rep"
      echo "ncu runs each of up to $LAUNCH_COUNT kernels several times over, for some half a second, and prints a line for each; LAUNCH_COUNT bounds it." >&2
      # Which metrics there are depends on the GPU; ncu knows.
      metrics=$(ncu --query-metrics 2>/dev/null | python3 "$PROJECT_DIR/benchmark/nsight_metrics.py") || return
      # NCCL's kernels wait for each other and never end when one of them is run again by itself.
      profiler=(ncu --profile-from-start off --target-processes all --kernel-name 'regex:^(?!nccl)'
        --launch-count "$LAUNCH_COUNT" --clock-control "$CLOCK_CONTROL" --metrics "$metrics"
        --force-overwrite --export "$folder/ncu")
      ;;
  esac
}

write_profile() { # ncu's report as the table that benchmark/nsight.py reads; the others write what is read by themselves
  local report=$OUTPUT_DIR/profile/ncu.ncu-rep
  if [[ ! -f $report ]]; then return; fi
  ncu --import "$report" --csv --page raw --print-units base >"${report%.ncu-rep}.csv"
}
