/** Finds the parts of TensorFlow.js in this process, once each, and hooks into them. */
import { DeepSpeedError } from '../../errors.ts';
import type { Core, Data, Layers } from './library.ts';
import { interceptLoads, loadedModules } from './loads.ts';

/** Versions whose inner functions this host knows. */
export const supportedRange = '>=4.22.0 <4.23.0';

/** What is done to each part of TensorFlow.js when it has been loaded, before anybody uses it. */
export interface Hooks {
  core(core: Core): void;
  layers(layers: Layers): void;
  data(data: Data): void;
}

/** From now on, and for what is loaded already, `hooks` see every part once. */
export function installHooks(hooks: Hooks): void {
  const finder = new Finder(hooks);
  for (const [exports, path] of loadedModules()) finder.look(exports, path);
  interceptLoads((load, path) => {
    finder.depth += 1;
    try {
      const exports = load();
      finder.look(exports, path);
      return exports;
    } finally {
      finder.depth -= 1;
    }
  });
  finder.guardEngine();
}

class Finder {
  /** TensorFlow.js is being loaded through `Module._load`. */
  depth = 0;
  readonly #hooks: Hooks;
  readonly #found = new Map<string, { mark: unknown; path: string }>();

  constructor(hooks: Hooks) {
    this.#hooks = hooks;
  }

  look(exports: unknown, path: string | (() => string)): void {
    if (typeof exports !== 'object' || exports === null) return;
    const parts = exports as Partial<Core & Layers & Data>;
    const from = () => (typeof path === 'string' ? path : path());
    if (parts.version_core && parts.Optimizer) {
      this.#once('core', parts.Optimizer, parts.version_core, from, () =>
        this.#hooks.core(exports as Core),
      );
    }
    if (parts.version_layers && parts.LayersModel) {
      this.#once('layers', parts.LayersModel, parts.version_layers, from, () =>
        this.#hooks.layers(exports as Layers),
      );
    }
    if (parts.version_data && parts.Dataset) {
      this.#once('data', parts.Dataset, parts.version_data, from, () =>
        this.#hooks.data(exports as Data),
      );
    }
  }

  /** @param mark a class of the part: `@tensorflow/tfjs` exports the same ones once more */
  #once(part: string, mark: unknown, version: string, from: () => string, hook: () => void): void {
    const known = this.#found.get(part);
    if (known?.mark === mark) return;
    if (known) {
      throw new DeepSpeedError(
        'TFJS_COPIES',
        `two copies of TensorFlow.js (${part}) are loaded: ${known.path} and ${from()}`,
        { data: { paths: [known.path, from()] } },
      );
    }
    requireVersion(part, version);
    this.#found.set(part, { mark, path: from() });
    hook();
  }

  /**
   * A bundle, or a copy loaded as ES modules, never passes through `Module._load`. Its engine would: it is
   * a global, which only one copy makes. Training that nothing hooks must not run N times unnoticed.
   */
  guardEngine(): void {
    const scope = globalThis as { _tfengine?: unknown };
    let engine = scope._tfengine;
    Object.defineProperty(scope, '_tfengine', {
      configurable: true,
      enumerable: true,
      get: () => engine,
      set: (value: unknown) => {
        if (this.depth === 0 && value) {
          throw new DeepSpeedError(
            'TFJS_NOT_HOOKED',
            'TensorFlow.js was loaded from a bundle or as ES modules, where the launcher cannot follow it',
          );
        }
        engine = value;
      },
    });
  }
}

function requireVersion(part: string, version: string): void {
  const [major, minor] = version.split('.').map(Number);
  if (major === 4 && minor === 22) return;
  throw new DeepSpeedError(
    'TFJS_VERSION',
    `TensorFlow.js ${part} is of version ${version}; supported are ${supportedRange}`,
    { data: { part, version, supported: supportedRange } },
  );
}
