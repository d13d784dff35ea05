/**
 * An ordinary TensorFlow.js training, the same file alone and under the launcher: `tfjs-train.cjs BACKEND
 * EPOCHS SAMPLES`, four batches an epoch. Prints the seconds of its epochs but the first, which warms up (and under the launcher is
 * checked).
 */
const tf = require('@tensorflow/tfjs');
if (process.argv[2] === 'wasm') require('@tensorflow/tfjs-backend-wasm');

const [backend, epochs] = [process.argv[2], Number(process.argv[3])];
const samples = Number(process.argv[4]);
const side = 14;
const features = side * side;
const batchSize = samples / 4;

function model() {
  if (backend === 'wasm') {
    // Convolutions have no gradient there.
    return tf.sequential({
      layers: [
        tf.layers.dense({ units: 512, activation: 'relu', inputShape: [features] }),
        tf.layers.dense({ units: 512, activation: 'relu' }),
        tf.layers.dense({ units: 10, activation: 'softmax' }),
      ],
    });
  }
  return tf.sequential({
    layers: [
      tf.layers.reshape({ targetShape: [side, side, 1], inputShape: [features] }),
      tf.layers.conv2d({ filters: 8, kernelSize: 3, activation: 'relu' }),
      tf.layers.maxPooling2d({ poolSize: 2 }),
      tf.layers.flatten(),
      tf.layers.dense({ units: 10, activation: 'softmax' }),
    ],
  });
}

async function main() {
  await tf.setBackend(backend);
  const net = model();
  net.compile({ optimizer: 'adam', loss: 'categoricalCrossentropy', metrics: ['accuracy'] });
  const x = tf.tensor(
    Float32Array.from({ length: samples * features }, (_, i) => (i % 17) / 17),
    [samples, features],
  );
  const y = tf.oneHot(
    tf.tensor1d(
      Array.from({ length: samples }, (_, i) => i % 10),
      'int32',
    ),
    10,
  );
  const times = [];
  let start;
  await net.fit(x, y, {
    epochs,
    batchSize,
    verbose: 0,
    callbacks: {
      onEpochBegin: () => {
        start = process.hrtime.bigint();
      },
      onEpochEnd: () => void times.push(Number(process.hrtime.bigint() - start) / 1e9),
    },
  });
  console.log(JSON.stringify({ samples, seconds: times.slice(1) }));
}

main();
