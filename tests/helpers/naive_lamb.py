"""LAMB written from the papers, in float64 and one weight at a time: what the fast ones are compared with."""

import math

import torch
from torch import nn

BETA1, BETA2, EPS, DECAY = 0.9, 0.999, 1e-6, 0.01


def module_of(parameters):
    """A module with these parameters, in their order; those of `query_key_value` are three weights in one."""
    module = nn.Module()
    for number, (name, parameter) in enumerate(parameters.items()):
        child = nn.Module()
        child.n_blocks = 3 if "query_key_value" in name else 1
        child.register_parameter("parameter", parameter)
        module.add_module(str(number), child)
    return module


def clipped(gradients, max_norm):
    gradients = {name: g.double() for name, g in gradients.items()}
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    return {name: g / max(1.0, norm / max_norm) for name, g in gradients.items()}, norm


class NaiveLamb:
    """Algorithm 2 of You et al. with apex's details, one weight at a time; query, key and value are three weights."""

    def __init__(self, parameters, lr, max_norm=1.0, *, betas=(BETA1, BETA2), eps=EPS, decay=DECAY):
        self.lr, self.max_norm, self.step_number, self.weights = lr, max_norm, 0, {}
        self.betas, self.eps, self.decay = betas, eps, decay
        for name, parameter in parameters.items():
            n = 3 if "query_key_value" in name else 1
            for index, block in enumerate(parameter.detach().double().cpu().clone().chunk(n)):
                self.weights[name, index] = [block, torch.zeros_like(block), torch.zeros_like(block)]

    def step(self, gradients):
        gradients, norm = clipped(gradients, self.max_norm)
        self.step_number += 1
        beta1, beta2 = self.betas
        for (name, index), weight in self.weights.items():
            p, m, v = weight
            g = gradients[name].chunk(3)[index] if "query_key_value" in name else gradients[name]
            decay = 0.0 if p.dim() < 2 else self.decay
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g * g
            m_hat, v_hat = m / (1 - beta1**self.step_number), v / (1 - beta2**self.step_number)
            update = m_hat / (v_hat.sqrt() + self.eps) + decay * p
            p_norm, update_norm = p.norm(), update.norm()
            ratio = p_norm / update_norm if decay and p_norm > 0 and update_norm > 0 else 1.0
            weight[:] = p - self.lr * ratio * update, m, v
        return norm

    def parameter(self, name):
        return torch.cat([weight[0] for (owner, _), weight in self.weights.items() if owner == name])
