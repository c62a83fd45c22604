//! The steps: what each is called and told, as it stands in `model.yaml`.

use super::parameters;
use crate::manifest::{Datatype, TensorSpec};
use perwatt_signal::audio::Window;
use perwatt_signal::boxes::Suppression;
use perwatt_signal::events::Reference;
use perwatt_signal::image::{Channels, Filter};
use perwatt_signal::mel::MelSpec;
use serde::{Deserialize, Serialize};

/// One step. Numbers of any type are taken, FP32 is given, where nothing else is said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", deny_unknown_fields, rename_all_fields = "camelCase")]
pub enum Step {
    /// A PNG or JPEG file, BYTES, becomes an image: UINT8 [height, width, channels].
    DecodeImage {
        /// Colours and their order.
        #[serde(default)]
        channels: Channels,
        /// Images with more pixels are refused before they are decoded.
        #[serde(default = "parameters::max_pixels")]
        max_pixels: u32,
        /// Files with more bytes are refused.
        #[serde(default = "parameters::max_bytes")]
        max_bytes: u32,
    },
    /// An image of another size. UINT8 stays UINT8.
    Resize {
        /// New height.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        height: Option<u32>,
        /// New width.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        width: Option<u32>,
        /// New length of the shorter side, the longer one in proportion; instead of height and width.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shorter_side: Option<u32>,
        /// How new pixels are made.
        filter: Filter,
    },
    /// A part of an image, with its type.
    Crop {
        /// Rows that stay.
        height: u32,
        /// Columns that stay.
        width: u32,
        /// Upper left corner; the middle of the image where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Corner>,
    },
    /// An image in another order of axes, with its type.
    Layout {
        /// The new order.
        to: Order,
    },
    /// Axes in another order, with their type.
    Transpose {
        /// Place of each new axis among the old ones.
        axes: Vec<u8>,
    },
    /// The same elements in another shape.
    Reshape {
        /// The new shape.
        shape: Vec<u32>,
    },
    /// A part of an axis, with its type.
    Slice {
        /// The axis; counted from the end where negative.
        axis: i8,
        /// First entry.
        start: u32,
        /// Number of entries.
        length: u32,
    },
    /// Another output of the model put behind this one; only after the model.
    Join {
        /// The other output.
        with: TensorSpec,
        /// The axis along which they follow each other; counted from the end where negative.
        axis: i8,
    },
    /// `(x · scale − mean) / std`, for each channel.
    Normalize {
        /// Factor before everything else.
        #[serde(default = "parameters::one")]
        scale: f32,
        /// Mean of each channel, or one for all.
        mean: Vec<f32>,
        /// Deviation of each channel, or one for all.
        std: Vec<f32>,
        /// The channel axis; counted from the end where negative.
        #[serde(default = "parameters::last_axis")]
        axis: i8,
    },
    /// `round(x / scale) + zeroPoint`, ties to even, cut to the range of the type.
    Quantize {
        /// INT8, UINT8, INT16, UINT16 or INT32.
        datatype: Datatype,
        /// Step between levels.
        scale: f32,
        /// The level of 0.
        zero_point: i32,
    },
    /// `(q − zeroPoint) · scale`.
    Dequantize {
        /// Step between levels.
        scale: f32,
        /// The level of 0.
        zero_point: i32,
    },
    /// Another type: rounded to the nearest, ties to even, cut to the range of the type.
    Cast {
        /// The type.
        datatype: Datatype,
    },
    /// INT16 samples as numbers between −1 and 1.
    Pcm16 {},
    /// `x[n] − coefficient · x[n−1]`; the sequence remembers the last sample.
    PreEmphasis {
        /// How much of the sample before is taken away.
        coefficient: f32,
    },
    /// Another sampling rate; the sequence remembers the end of the signal.
    Resample {
        /// Rate of the signal that comes.
        from_hertz: u32,
        /// Rate of the signal that goes on.
        to_hertz: u32,
    },
    /// Overlapping windows, weighted: [windows, length].
    Frames {
        /// Samples in a window.
        length: u32,
        /// Samples from one window to the next.
        hop: u32,
        /// The weights.
        #[serde(default)]
        window: Window,
    },
    /// Log-mel spectrogram: [rows, bands].
    LogMel(MelSpec),
    /// Events where the signal changed: channels up, then channels down; the sequence remembers the references.
    Delta {
        /// Rise that makes an event.
        up: f32,
        /// Fall that makes an event; as `up` where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        down: Option<f32>,
        /// What a channel is compared with after an event.
        #[serde(default)]
        reference: Reference,
    },
    /// A list [n, 2] of (microseconds, channel), INT64 or INT32, becomes counts [steps, channels].
    BinEvents {
        /// Number of steps.
        steps: u32,
        /// Length of a step.
        step_microseconds: u32,
        /// Number of channels.
        channels: u32,
    },
    /// The last rows of the signal, with those of earlier requests of the sequence: [rows, channels].
    SlidingWindow {
        /// Rows in the window.
        rows: u32,
    },
    /// Probabilities along the last axis.
    Softmax {},
    /// `1 / (1 + exp(−x))`.
    Sigmoid {},
    /// Place of the largest entry of the last axis, which goes away: INT64.
    ArgMax {},
    /// The largest entries of the last axis, the largest first.
    TopK {
        /// How many.
        count: u32,
        /// What is given of them.
        give: Give,
    },
    /// Places become the labels of `model.yaml`: INT64 to BYTES.
    Labels {},
    /// Yes from `rise` on, no below `fall`, in between as before; BOOL. The sequence remembers the last row.
    Threshold {
        /// From here on yes.
        rise: f32,
        /// Below here no; as `rise` where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fall: Option<f32>,
    },
    /// `y = weight · x + (1 − weight) · y before`; the sequence remembers the last row.
    Smooth {
        /// How much the new value counts.
        weight: f32,
    },
    /// Mean over the last rows; the sequence remembers them.
    MovingMean {
        /// Number of rows.
        rows: u32,
    },
    /// Boxes [n, 4 + classes], the best of those that overlap: [most, 6] of x1, y1, x2, y2, score, class.
    NonMaximumSuppression(Suppression),
}

/// Upper left corner of a crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corner {
    /// First row.
    pub top: u32,
    /// First column.
    pub left: u32,
}

/// Order of an image's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Order {
    /// Channels, height, width, out of height, width, channels.
    Chw,
    /// Height, width, channels, out of channels, height, width.
    Hwc,
}

/// What is given of the largest entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Give {
    /// The entries: FP32.
    Values,
    /// Their places: INT64.
    Places,
    /// Their labels: BYTES.
    Labels,
}

impl Step {
    /// Its name in `model.yaml`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DecodeImage { .. } => "DecodeImage",
            Self::Resize { .. } => "Resize",
            Self::Crop { .. } => "Crop",
            Self::Layout { .. } => "Layout",
            Self::Transpose { .. } => "Transpose",
            Self::Reshape { .. } => "Reshape",
            Self::Slice { .. } => "Slice",
            Self::Join { .. } => "Join",
            Self::Normalize { .. } => "Normalize",
            Self::Quantize { .. } => "Quantize",
            Self::Dequantize { .. } => "Dequantize",
            Self::Cast { .. } => "Cast",
            Self::Pcm16 {} => "Pcm16",
            Self::PreEmphasis { .. } => "PreEmphasis",
            Self::Resample { .. } => "Resample",
            Self::Frames { .. } => "Frames",
            Self::LogMel(_) => "LogMel",
            Self::Delta { .. } => "Delta",
            Self::BinEvents { .. } => "BinEvents",
            Self::SlidingWindow { .. } => "SlidingWindow",
            Self::Softmax {} => "Softmax",
            Self::Sigmoid {} => "Sigmoid",
            Self::ArgMax {} => "ArgMax",
            Self::TopK { .. } => "TopK",
            Self::Labels {} => "Labels",
            Self::Threshold { .. } => "Threshold",
            Self::Smooth { .. } => "Smooth",
            Self::MovingMean { .. } => "MovingMean",
            Self::NonMaximumSuppression(_) => "NonMaximumSuppression",
        }
    }
}
