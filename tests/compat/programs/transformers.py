"""Small Flax models of transformers with random weights: BERT's loss with its gradient, and GPT-2 with its cache."""

import jax
import jax.numpy as jnp
from transformers import BertConfig, FlaxBertForMaskedLM, FlaxGPT2LMHeadModel, GPT2Config


def build():
    """Return a function of token ids: BERT's loss and gradient with dropout, GPT-2's logits whole and by its cache."""
    bert = FlaxBertForMaskedLM(
        BertConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
        ),
        input_shape=(1, 4),
    )
    gpt = FlaxGPT2LMHeadModel(
        GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1),
        input_shape=(1, 4),
    )

    def run(ids, key, bert_params, gpt_params):
        def loss(params):
            out = bert(ids, params=params, dropout_rng=key, train=True)
            return -jax.nn.log_softmax(out.logits)[..., 0].mean()

        value, grads = jax.value_and_grad(loss)(bert_params)
        whole = gpt(ids, params=gpt_params).logits
        cache = gpt.init_cache(1, 4)
        mask, steps = jnp.ones((1, 4), "int32"), []
        for i in range(2):
            at = jnp.full((1, 1), i)
            out = gpt(ids[:, i : i + 1], params=gpt_params, past_key_values=cache, attention_mask=mask, position_ids=at)
            cache = out.past_key_values
            steps.append(out.logits)
        return value, grads, whole, steps, cache

    return run, (jnp.asarray([[3, 1, 4, 1]]), jax.random.PRNGKey(0), bert.params, gpt.params)
