export { DdadError, type DdadErrorCode } from './base/errors.js';
export { Detector, type LoadOptions, type ScoreOptions } from './scoring/detector.js';
export type { ScoreResult } from './scoring/result.js';
export {
  type CalibrateProgress,
  type FitOptions,
  type Progress,
  Trainer,
  type TrainProgress,
} from './training/trainer.js';
export type { EvidenceName } from './config/evidence.js';
export { importModel, type ImportOptions, type ImportResult } from './model/import.js';
export type { FitPadimOptions, FitPadimProgress } from './scoring/padim.js';
export type {
  ReconstructedImage,
  Reconstruction,
  ReconstructOptions,
  ReconstructProgress,
  SampleOptions,
} from './scoring/reconstruct.js';
export type { ModelConfig, StoredConfig } from './config/config.js';
export type { DeviceOptions, ScoringOptions, TopPixels, TrainerOptions } from './config/options.js';
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
export type { HeatmapOptions, ScoreMap } from './image/heatmap.js';
export {
  exportOnnx,
  type OnnxExport,
  type OnnxExportOptions,
  type OnnxPort,
  exportSafetensors,
  type SafetensorsExport,
  type SafetensorsExportOptions,
  type WrittenFile,
} from './model/export.js';
export {
  checkModel,
  type CheckedModel,
  type CheckOptions,
  type SignedModel,
  signModel,
  type SignOptions,
} from './model/signature.js';
export type { DetectorStats } from './scoring/queue.js';
export type { ImageInput, RawImage } from './image/decode.js';
export { type Preset, type PresetName, presets } from './config/presets.js';
