# One engine over several hosts, in each of its pods: multi-node.sh EXECUTOR NODES HEAD ARGUMENTS…
# The pod's number is its node's. Node 0 serves; the others work for it, and are restarted when it is (by their probes).
set -euo pipefail
executor=$1 nodes=$2 head=$3
shift 3
rank=${HOSTNAME##*-}

case $executor in
  mp) # https://docs.vllm.ai/en/stable/serving/parallelism_scaling: vLLM's own processes
    if [ "$rank" != 0 ]; then set -- "$@" --headless; fi
    exec vllm serve "$@" --nnodes "$nodes" --node-rank "$rank" --master-addr "$head"
    ;;
  ray) # the same page: an image with Ray in it, which vLLM's own has not had since 0.19
    command -v ray >/dev/null || { echo "this image has no Ray: build one (FROM vllm/vllm-openai, RUN pip install ray) or set executor: mp"; exit 1; }
    if [ "$rank" != 0 ]; then
      until ray start --address="$head:6379" --block; do sleep 2; done
      exit 1 # the head is gone: from the beginning
    fi
    ray start --head --port=6379
    alive='import ray; ray.init(address="auto", logging_level="error"); print(sum(node["Alive"] for node in ray.nodes()))'
    until [ "$(python3 -c "$alive")" -ge "$nodes" ]; do sleep 2; done
    exec vllm serve "$@"
    ;;
esac
