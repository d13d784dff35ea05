/** When 0/1 Adam communicates what (Lu et al., arXiv 2202.06009, section 6); a pure function of the step. */
export interface ZeroOneRules {
  /** After this many steps the second moments never change again, and local steps begin. */
  varFreezeStep: number;
  /** Updates of the second moments after which the interval between them doubles. */
  varUpdateScaler: number;
  /** Local steps after which the interval between exchanges doubles. */
  localStepScaler: number;
  /** Longest interval between exchanges, in steps. */
  localStepClipper: number;
}

export type ZeroOneStep =
  /** The gradient is averaged in full, and both moments take it. */
  | 'dense'
  /** Momentum in one bit an element. */
  | 'compressed'
  /** Nothing is sent. */
  | 'local'
  /** The moves since the last exchange, in one bit an element. */
  | 'exchange';

/** What step number `step`, from 1, does. The first is always dense: there are no second moments before it. */
export function zeroOneStep(step: number, rules: ZeroOneRules): ZeroOneStep {
  const local = step - freezeStep(rules);
  if (local <= 0) return varianceUpdates(step, rules).last === step ? 'dense' : 'compressed';
  const { localStepScaler, localStepClipper } = rules;
  const doublings = Math.floor((local - 1) / localStepScaler);
  const place = local - doublings * localStepScaler;
  // A stage of one interval ends with an exchange, so that none goes on into the next.
  const ends = place % intervalOf(doublings, localStepClipper) === 0 || place === localStepScaler;
  return ends ? 'exchange' : 'local';
}

/** How many of the steps 1 to `step` have updated the second moments, and which was the last. */
export function varianceUpdates(
  step: number,
  rules: ZeroOneRules,
): { count: number; last: number } {
  const end = Math.min(step, freezeStep(rules));
  let count = 1;
  let last = 1;
  for (;;) {
    const next = last + 2 ** Math.floor((count - 1) / rules.varUpdateScaler);
    if (next > end) return { count, last };
    count += 1;
    last = next;
  }
}

export function freezeStep({ varFreezeStep }: ZeroOneRules): number {
  return Math.max(1, varFreezeStep);
}

function intervalOf(doublings: number, longest: number): number {
  return Math.min(2 ** doublings, longest);
}
