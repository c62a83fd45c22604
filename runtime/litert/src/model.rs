//! A file that was checked by this crate and by the C library.

use crate::aligned::Aligned;
use crate::error::Error;
use crate::graph::Graph;
use crate::library::Library;
use crate::messages::{Messages, report};
use crate::raw;
use std::ptr::NonNull;
use std::sync::Arc;

/// A file that can be run by any number of interpreters. Clones share it.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

struct Shared {
    raw: NonNull<raw::Model>,
    library: Library,
    graph: Graph,
    // The C library reads constants from here for as long as the model or one of its interpreters lives.
    _content: Aligned,
    // The C library may report to these for as long as the model lives.
    _messages: Box<Messages>,
}

// SAFETY: the C library's model is only read after it was made; it is counted and freed atomically there.
unsafe impl Send for Shared {}
// SAFETY: as above: interpreters that are made from it in several threads only read it.
unsafe impl Sync for Shared {}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("graph", &self.shared.graph)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Checks a file ([`Graph::read`]), then lets the library verify it. The content is copied.
    ///
    /// # Errors
    /// When the file is refused by the one or the other.
    pub fn load(library: &Library, content: &[u8]) -> Result<Self, Error> {
        let graph = Graph::read(content)?;
        let content = Aligned::copy(content);
        let messages = Box::<Messages>::default();
        let (start, length) = content.parts();
        let raw = match library.create_reporting() {
            // SAFETY: `content` holds `length` bytes, is never changed, and is kept beside the model until
            // that is deleted, as are the messages.
            Some(create) => unsafe { create(start.cast(), length, Some(report), messages.as_user_data()) },
            // SAFETY: as above.
            None => unsafe { (library.functions().model_create)(start.cast(), length) },
        };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Model {
            version: library.version().to_owned(),
            said: messages.take(),
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                raw,
                library: library.clone(),
                graph,
                _content: content,
                _messages: messages,
            }),
        })
    }

    /// What the file says.
    pub fn graph(&self) -> &Graph {
        &self.shared.graph
    }

    /// The library that runs it.
    pub fn library(&self) -> &Library {
        &self.shared.library
    }

    pub(crate) fn raw(&self) -> *const raw::Model {
        self.shared.raw.as_ptr()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it was made by this library, is deleted once, and nobody else holds it: interpreters hold the
        // `Arc` around this.
        unsafe { (self.library.functions().model_delete)(self.raw.as_ptr()) };
    }
}
