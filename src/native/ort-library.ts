/**
 * Finds the ONNX Runtime library that the user's transformers.js runs on. A process can hold one
 * copy only, so the engine calls the very file that `onnxruntime-node` ships, of a checked version.
 */
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { DeepSpeedError } from '../errors.ts';

/** Releases of onnxruntime-node that the engine works with. */
export const requiredOrtVersion = '1.30';

const installCommand = 'npm install @huggingface/transformers@4.3.1 onnxruntime-node@1.30.0';

export interface OrtLibrary {
  /** The library file, symbolic links resolved. */
  path: string;
  /** Version of the onnxruntime-node package, such as '1.30.0'. */
  version: string;
}

/** What the search looks at; tests give their own. */
export interface OrtSearch {
  /** Folder of the user's project. */
  projectFolder: string;
  platform: string;
  arch: string;
  /** A file whose own resolution is the last resort. */
  ownFile: string;
}

/**
 * The library of the onnxruntime-node that transformers.js resolves from the user's project; without
 * transformers.js the one the project itself resolves, else this package's.
 *
 * @throws DeepSpeedError ORT_MISSING or ORT_VERSION.
 */
export function findOrtLibrary(search: Partial<OrtSearch> = {}): OrtLibrary {
  const {
    projectFolder = process.cwd(),
    platform = process.platform,
    arch = process.arch,
    ownFile = import.meta.url,
  } = search;
  const manifest = resolvePackage(projectFolder, ownFile);
  if (manifest === undefined) {
    throw new DeepSpeedError('ORT_MISSING', 'onnxruntime-node is not installed', {
      fix: `Run: ${installCommand}`,
      data: { projectFolder },
    });
  }
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };
  if (!version.startsWith(`${requiredOrtVersion}.`)) {
    throw new DeepSpeedError(
      'ORT_VERSION',
      `onnxruntime-node ${version} was found; deepspeed-js needs ${requiredOrtVersion}.x`,
      {
        fix: `Run: ${installCommand}`,
        data: { found: version, required: requiredOrtVersion, manifest },
      },
    );
  }
  const path = libraryFile(dirname(manifest), platform, arch);
  if (path === undefined) {
    throw new DeepSpeedError(
      'ORT_MISSING',
      `onnxruntime-node ${version} has no library for ${platform}-${arch}`,
      { fix: `Install it anew: ${installCommand}`, data: { manifest, platform, arch } },
    );
  }
  return { path: realpathSync(path), version };
}

/** The package.json of onnxruntime-node, or undefined. */
function resolvePackage(projectFolder: string, ownFile: string): string | undefined {
  const target = 'onnxruntime-node/package.json';
  const projectFile = join(projectFolder, 'package.json');
  const transformers = tryResolve(projectFile, '@huggingface/transformers');
  return (
    (transformers && tryResolve(transformers, target)) ??
    tryResolve(projectFile, target) ??
    tryResolve(ownFile, target)
  );
}

function tryResolve(from: string, name: string): string | undefined {
  try {
    return createRequire(from).resolve(name);
  } catch {
    return undefined; // not installed as seen from there
  }
}

/** `bin/napi-v<n>/<platform>/<arch>/libonnxruntime.*`; the package ships one for each platform. */
function libraryFile(packageFolder: string, platform: string, arch: string): string | undefined {
  const bin = join(packageFolder, 'bin');
  if (!existsSync(bin)) return undefined;
  for (const version of readdirSync(bin).filter((name) => name.startsWith('napi-v'))) {
    const folder = join(bin, version, platform, arch);
    if (!existsSync(folder)) continue;
    const file = readdirSync(folder).find((name) => /^libonnxruntime\.(so|[\d.]*dylib)/.test(name));
    if (file !== undefined) return join(folder, file);
  }
  return undefined;
}
