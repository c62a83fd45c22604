//! What a run cost, counted as NeuroBench counts it.

/// Operations and activations of a run. Synaptic operations are those of Affine, Linear and convolution nodes,
/// without their biases; what depends on nothing but an input that is held is computed, and counted, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Steps that were run.
    pub steps: u64,
    /// Synaptic operations whose input and weight are not zero, and whose input is a number: multiply-accumulates.
    pub effective_macs: u64,
    /// The same where the inputs of a layer are spikes alone: accumulates.
    pub effective_acs: u64,
    /// What a dense implementation does: one operation for each weight in use, zeros included.
    pub dense: u64,
    /// Neurons that were computed; a silent layer is not.
    pub neuron_updates: u64,
    /// Outputs of spiking neurons, whatever they were.
    pub activations: u64,
    /// Those of them that were spikes.
    pub spikes: u64,
}

impl Counts {
    /// The part of the spiking neurons' outputs that was zero, from 0 to 1; nothing where there were none.
    pub fn activation_sparsity(&self) -> Option<f64> {
        (self.activations > 0).then(|| 1.0 - self.spikes as f64 / self.activations as f64)
    }

    pub(crate) fn add_synaptic(&mut self, operations: u64, are_spikes: bool) {
        if are_spikes {
            self.effective_acs += operations;
        } else {
            self.effective_macs += operations;
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.effective_macs += other.effective_macs;
        self.effective_acs += other.effective_acs;
        self.dense += other.dense;
        self.neuron_updates += other.neuron_updates;
        self.activations += other.activations;
        self.spikes += other.spikes;
    }
}
