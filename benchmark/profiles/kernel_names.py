"""Names of kernels for people: profilers give them with return type, namespaces, template and parameters."""

import re

# Kernels that do whatever they are given: what that was stands among the arguments of their template.
GENERIC = re.compile(
    r"elementwise_kernel|reduce_kernel|multi_tensor_apply_kernel|index_|scatter_gather|distribution_|^Kernel2?$"
)
FUNCTOR = re.compile(r"\b(\w*[fF]unctor\w*|\w+Ops?|\w*_(?:kernel|impl|cuda)\w*|\w*Kernel\w*|cutlass_\w+)\b")
WRAPPER = re.compile(r"[AB]UnaryFunctor|BinaryFunctor|ReduceOp|gpu_kernel_impl\w*")  # of a functor behind it
ARITHMETIC = re.compile(r"\bstd::(plus|minus|multiplies|divides)\b|(?<=, )(plus|minus|multiplies|divides)<")
UNNAMED = re.compile(r"(\(anonymous namespace\)|<unnamed>)::")  # as compilers and ncu write it


def short_name(kernel: str) -> str:
    """A kernel's name without return type, namespaces, template and parameters; of a generic one, with what it does."""
    plain = UNNAMED.sub("", kernel).removeprefix("void ")
    head = re.split(r"[<(]", plain, maxsplit=1)[0]
    name = head.rsplit("::", 1)[-1].strip()
    if GENERIC.search(name):
        behind = plain[len(head) :]
        told = [functor for functor in FUNCTOR.findall(behind) if functor != name and not WRAPPER.fullmatch(functor)]
        if told:
            operation = ARITHMETIC.search(behind) if name.startswith("multi_tensor") else None
            return f"{name}: {told[0]}" + (f" {operation[1] or operation[2]}" if operation else "")
    return name or kernel
