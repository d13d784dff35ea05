/** Top-level sections that third-party strategies bring along. */
import type { z } from 'zod';
import { DeepSpeedError } from '../errors.ts';
import { table } from './table.ts';

export interface SectionDefinition<T = unknown> {
  /** The top-level key of the config. */
  key: string;
  /** Checks the section; a strict object reports misspelt keys. */
  schema: z.ZodType<T>;
  /** One line for `ds_report`. */
  meaning?: string;
}

/** The part of a resolved config that third-party strategies own. */
export interface Extended {
  /** Checked sections of third-party strategies, by their key. */
  extensions: Record<string, unknown>;
}

/** A registered section: reads its own value from a resolved config, undefined when absent. */
export interface SectionHandle<T> {
  readonly key: string;
  read(config: Extended): T | undefined;
}

const sections = new Map<string, SectionDefinition>();

/**
 * Adds a top-level section to the config. Registering the same definition twice is allowed, another
 * one under the same key is not.
 *
 * @example
 * const sparsity = defineSection({
 *   key: 'my_sparsity',
 *   schema: z.strictObject({ density: z.number().min(0).max(1) }),
 * });
 * sparsity.read(config)?.density;
 */
export function defineSection<T>(definition: SectionDefinition<T>): SectionHandle<T> {
  const { key } = definition;
  const existing = sections.get(key);
  if (Object.hasOwn(table, key) || (existing !== undefined && existing !== definition)) {
    throw new DeepSpeedError('SECTION_TAKEN', `the config section ${key} is already defined`, {
      data: { key },
    });
  }
  sections.set(key, definition);
  return { key, read: (config) => config.extensions[key] as T | undefined };
}

export function definedSections(): ReadonlyMap<string, SectionDefinition> {
  return sections;
}
