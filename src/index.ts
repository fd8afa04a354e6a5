export { DdadError, type DdadErrorCode } from './errors.js';
export { Detector, type LoadOptions, type ScoreOptions, type ScoreResult } from './detector.js';
export { type CalibrateProgress, type FitOptions, type Progress, Trainer, type TrainProgress } from './trainer.js';
export type { EvidenceName } from './evidence.js';
export { importModel, type ImportOptions, type ImportResult } from './import.js';
export type { FitPadimOptions, FitPadimProgress } from './padim.js';
export type {
  ReconstructedImage,
  Reconstruction,
  ReconstructOptions,
  ReconstructProgress,
  SampleOptions,
} from './reconstruct.js';
export type { ModelConfig, StoredConfig } from './config.js';
export type { DeviceOptions, ScoringOptions, TopPixels, TrainerOptions } from './options.js';
export {
  evaluate,
  type EvaluatedDetector,
  type EvaluateOptions,
  type EvaluateProgress,
  type ScoredImage,
} from './evaluation/evaluate.js';
export type {
  BestF1,
  Curve,
  Curves,
  EvaluatedImage,
  Evaluation,
  ImageMetrics,
  Metrics,
  Outcome,
  PixelMetrics,
  ProductEvaluation,
  SkippedImage,
} from './evaluation/types.js';
export type { HeatmapOptions, ScoreMap } from './heatmap.js';
export {
  exportOnnx,
  type OnnxExport,
  type OnnxExportOptions,
  type OnnxPort,
  exportSafetensors,
  type SafetensorsExport,
  type SafetensorsExportOptions,
  type WrittenFile,
} from './export.js';
export {
  checkModel,
  type CheckedModel,
  type CheckOptions,
  type SignedModel,
  signModel,
  type SignOptions,
} from './signature.js';
export type { DetectorStats } from './score-queue.js';
export type { ImageInput, RawImage } from './image.js';
export { type Preset, type PresetName, presets } from './presets.js';
