//! LiteRT (TensorFlow Lite) models through its plain C library, loaded at run time.
//!
//! A [`Model`] is a file that was checked; an [`Interpreter`] runs it, for one caller at a time.
//! [`Graph`] alone reads a file without any library. What lives here is calling the C library safely:
//! all unsafe code of the product is in this crate. Requests, chains and `model.yaml` are unknown here.
//!
//! What is checked before the C library sees a file is listed at [`Graph::read`].

mod aligned;
mod delegate;
mod element;
mod error;
mod flat;
mod graph;
mod interpreter;
mod library;
mod messages;
mod model;
mod raw;
mod subgraphs;

pub use delegate::Delegate;
pub use element::Element;
pub use error::Error;
pub use graph::{Graph, GraphError, Quantisation, TensorInfo};
pub use interpreter::{Interpreter, Options};
pub use library::{LIBRARY_ENV, Library};
pub use model::Model;
