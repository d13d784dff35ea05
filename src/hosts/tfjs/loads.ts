/**
 * Sees TensorFlow.js being loaded, however the script does it: all of it is CommonJS, and what an `import`
 * of CommonJS requires passes through `Module._load`, too.
 */
import Module from 'node:module';

interface ModuleInternals {
  _load(request: string, parent: unknown, isMain: boolean): unknown;
  _resolveFilename(request: string, parent: unknown, isMain: boolean): string;
  _cache: Record<string, { exports: unknown } | undefined>;
}

const internals = Module as unknown as ModuleInternals;
/** What its packages and their files are called; a script of the user's may well be in a folder `tfjs`. */
const named = /@tensorflow[/\\]|[/\\]tf(js)?-(core|layers|data)[^/\\]*$|[/\\]tf\.[^/\\]*js$/;

/** @param around gets every module that may be a part of it: must call `load`, and return what that does */
export function interceptLoads(around: (load: () => unknown, path: () => string) => unknown): void {
  const original = internals._load;
  internals._load = function (this: unknown, request, parent, isMain) {
    const load = () => original.call(this, request, parent, isMain);
    if (!named.test(request)) return load();
    return around(load, () => internals._resolveFilename(request, parent, isMain));
  };
}

/** What has been loaded already: exports and path. */
export function loadedModules(): [exports: unknown, path: string][] {
  return Object.entries(internals._cache).flatMap(([path, module]) =>
    named.test(path) && module ? [[module.exports, path] as [unknown, string]] : [],
  );
}
