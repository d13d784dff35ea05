/** The optimizer section in the engine's terms: one flat record, whatever the type. */
import type { DeepSpeedConfig } from './resolve.ts';

export interface OptimizerSettings {
  kind: 'adam' | 'adamw' | 'sgd' | 'lion' | 'adagrad' | 'lamb' | 'onebit_lamb';
  lr: number;
  /** sgd: the momentum. */
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  biasCorrection: boolean;
  nesterov: boolean;
  dampening: number;
  /** lamb, onebit_lamb: bounds of the trust ratio. */
  minCoeff?: number;
  maxCoeff?: number;
  /** onebit_lamb: the trust ratio's average, and the factor on it once second moments are frozen. */
  coeffBeta?: number;
  factorMin?: number;
  factorMax?: number;
  factorThreshold?: number;
}

const unused = { beta1: 0, beta2: 0, eps: 0, biasCorrection: false, nesterov: false, dampening: 0 };

/** Null when the config has no optimizer section. */
export function optimizerSettings(
  optimizer: DeepSpeedConfig['optimizer'],
): OptimizerSettings | null {
  if (optimizer === null) return null;
  switch (optimizer.type) {
    case 'Adam':
    case 'AdamW':
    case 'OneBitAdam':
    case 'ZeroOneAdam': {
      const { lr, betas, eps, weight_decay, bias_correction } = optimizer.params;
      const coupled = optimizer.type === 'Adam' && !optimizer.params.adam_w_mode;
      return {
        ...unused,
        kind: coupled ? 'adam' : 'adamw',
        lr,
        beta1: betas[0],
        beta2: betas[1],
        eps,
        weightDecay: weight_decay,
        biasCorrection: bias_correction,
      };
    }
    case 'Lamb':
    case 'OneBitLamb': {
      const { lr, betas, eps, weight_decay, bias_correction } = optimizer.params;
      const { min_coeff, max_coeff } = optimizer.params;
      return {
        ...unused,
        kind: optimizer.type === 'Lamb' ? 'lamb' : 'onebit_lamb',
        lr,
        beta1: betas[0],
        beta2: betas[1],
        eps,
        weightDecay: weight_decay,
        biasCorrection: bias_correction,
        minCoeff: min_coeff,
        maxCoeff: max_coeff,
        ...(optimizer.type === 'OneBitLamb' && {
          coeffBeta: optimizer.params.coeff_beta,
          factorMin: optimizer.params.factor_min,
          factorMax: optimizer.params.factor_max,
          factorThreshold: optimizer.params.factor_threshold,
        }),
      };
    }
    case 'SGD': {
      const { lr, momentum, dampening, weight_decay, nesterov } = optimizer.params;
      return {
        ...unused,
        kind: 'sgd',
        lr,
        beta1: momentum,
        dampening,
        nesterov,
        weightDecay: weight_decay,
      };
    }
    case 'Lion': {
      const { lr, betas, weight_decay } = optimizer.params;
      return {
        ...unused,
        kind: 'lion',
        lr,
        beta1: betas[0],
        beta2: betas[1],
        weightDecay: weight_decay,
      };
    }
    case 'Adagrad': {
      const { lr, eps, weight_decay } = optimizer.params;
      return { ...unused, kind: 'adagrad', lr, eps, weightDecay: weight_decay };
    }
  }
}
