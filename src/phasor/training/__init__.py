"""The training engine: data, batches, loop, adapters, checkpoints, several processes.

For a caller that brings its own optimisation, as the merge search does, three calls are enough:

    network = make_network(*load_model(folder, role), config, role)            # phasor.models.loading
    batches = heldout_batches(network, tasks, loss, batch_size, seed)  # phasor.training.data
    value = batch_loss(network, batches[task][i], loss)                        # phasor.training.objective

`batch_loss` is the training loss as one differentiable scalar, whatever stands behind the network's modules.
"""
