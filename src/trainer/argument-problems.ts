/** A finding of the arguments' schema in the words of this library: what was given, what is expected. */
import { inspect } from 'node:util';
import type { z } from 'zod';
import { nearest, unknownName } from '../nearest.ts';

/**
 * @param input the arguments as given
 * @param names of all arguments
 */
export function describeIssue(
  issue: z.core.$ZodIssue,
  input: unknown,
  names: readonly string[],
): string[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => unknownName(key, names, 'an argument'));
  }
  const got = issue.path.reduce(
    (value: unknown, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key],
    input,
  );
  const name = issue.path.join('.') || 'args';
  if (got === undefined) return [`${name} is missing; expected ${expected(issue)}`];
  return [`${name}: got ${show(got)}, expected ${expected(issue)}${suggestion(issue, got)}`];
}

const typeWords: Readonly<Record<string, string>> = {
  string: 'a text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
};

function expected(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return typeWords[issue.expected] ?? issue.expected;
    case 'too_small':
      if (issue.origin === 'string') return 'a text that is not empty';
      return issue.inclusive ? `at least ${issue.minimum}` : `more than ${issue.minimum}`;
    case 'too_big':
      return `at most ${issue.maximum}`;
    case 'invalid_value':
      return issue.values.map((value) => JSON.stringify(value)).join(', ');
    case 'invalid_union':
      return issue.errors.map(([first]) => (first ? expected(first) : '')).join(' or ');
    case 'custom':
      return 'a strategy { name, apply }';
    default:
      return issue.message;
  }
}

function suggestion(issue: z.core.$ZodIssue, got: unknown): string {
  if (issue.code !== 'invalid_value' || typeof got !== 'string') return '';
  const near = nearest(got, issue.values.map(String));
  return near === undefined ? '' : `; did you mean "${near}"?`;
}

function show(value: unknown): string {
  const shown = inspect(value, { depth: 1, breakLength: Number.POSITIVE_INFINITY });
  return shown.length > 60 ? `${shown.slice(0, 57)}...` : shown;
}
