"""`compact_name_scope` and `share_scope`: variables that lie elsewhere than under a module's own name."""

from typing import Any

import jax
import jax.numpy as jnp

from ..table import Rounding, program


@program()
def compact_name_scopes(nn: Any) -> Any:
    class Net(nn.Module):
        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(5)(nn.Dense(4)(x))

        @nn.compact_name_scope
        def down(self, x):
            return nn.Dense(3)(x)

        def __call__(self, x):
            return self.down(self.up(x)) + self.down(self.up(x))

    return Net()


@program(method="up")
def compact_name_scope_as_method(nn: Any) -> Any:
    return compact_name_scopes(nn)


@program()
def compact_name_scope_in_compact(nn: Any) -> Any:
    class Net(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)

        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(3)(self.first(x))

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.up(nn.Dense(3)(x))), self.up(x)

    return Net()


@program()
def share_scope_with_a_field(nn: Any) -> Any:
    class Adapted(nn.Module):
        base: Any

        def setup(self):
            nn.share_scope(self, self.base)

        @nn.compact
        def __call__(self, x):
            a = self.param("A", nn.initializers.normal(1.0), (x.shape[-1], 2))
            return self.base(x) + (x @ a).sum()

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Adapted(nn.Dense(3))(Adapted(nn.Dense(3))(x))

    return Net()


@program()
def share_scope_with_a_child(nn: Any) -> Any:
    class Adapted(nn.Module):
        def setup(self):
            self.child = nn.Dense(3)
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            a = self.param("A", nn.initializers.normal(1.0), (x.shape[-1], 2))
            return self.child(x) + (x @ a).sum()

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Adapted()(x)

    return Net()


@program()
def share_scope_with_siblings_and_param(nn: Any) -> Any:
    class A(nn.Module):
        def setup(self):
            self.child = nn.Dense(3)
            self.other = nn.Dense(3)
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            y = self.param("y", nn.initializers.normal(), (3,))
            return self.other(self.child(x)) + y + nn.Dense(3)(x)

    return A()


@program()
def share_scope_with_a_field_of_children(nn: Any) -> Any:
    class B(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.b = nn.Dense(3)

        def __call__(self, x):
            return self.b(self.a(x))

    class A(nn.Module):
        base: nn.Module

        def setup(self):
            nn.share_scope(self, self.base)
            self.c = nn.Dense(3)

        def __call__(self, x):
            return self.c(self.base(x))

    return A(B())


@program()
def share_scope_after_own_children(nn: Any) -> Any:
    class B(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Dense(3)(x))

    class A(nn.Module):
        base: nn.Module

        def setup(self):
            self.c = nn.Dense(3)
            nn.share_scope(self, self.base)

        def __call__(self, x):
            return self.c(self.base(x))

    return A(B())


@program()
def share_scope_in_compact(nn: Any) -> Any:
    class A(nn.Module):
        @nn.compact
        def __call__(self, x):
            d = nn.Dense(3)
            e = nn.Dense(3)
            x = e(x)
            nn.share_scope(self, d)
            return d(x) + self.param("q", nn.initializers.normal(), (3,))

    return A()


@program()
def share_scope_between_draws(nn: Any) -> Any:
    class B(nn.Module):
        @nn.compact
        def __call__(self, x):
            k = jax.random.normal(self.make_rng("noise"), ())
            return nn.Dense(3)(nn.Dense(3)(x)) + k

    class A(nn.Module):
        base: nn.Module

        def setup(self):
            nn.share_scope(self, self.base)

        @nn.compact
        def __call__(self, x):
            k = jax.random.normal(self.make_rng("noise"), ())
            y = nn.Dense(3, name="mine")(x)
            return self.base(y) + k + jax.random.normal(self.make_rng("noise"), ())

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return A(B())(A(B())(x))

    return Top()


@program()
def share_scope_in_a_list(nn: Any) -> Any:
    class B(nn.Module):
        def setup(self):
            self.a = [nn.Dense(3), nn.Dense(3)]
            self.w = self.param("w", nn.initializers.normal(), (3,))

        def __call__(self, x):
            return self.a[1](self.a[0](x)) * self.w

    class A(nn.Module):
        def setup(self):
            self.child = B()
            self.z = nn.Dense(3)
            nn.share_scope(self, self.child)
            self.v = self.param("v", nn.initializers.normal(), (3,))

        def __call__(self, x):
            return self.z(self.child(x)) + self.v

    class Top(nn.Module):
        def setup(self):
            self.l = [A(), A()]

        def __call__(self, x):
            return self.l[1](self.l[0](x))

    return Top()


@program()
def share_scope_after_setup_of_the_child(nn: Any) -> Any:
    class B(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.width = 3

        def __call__(self, x):
            return self.a(x)

    class A(nn.Module):
        def setup(self):
            self.child = B()
            self.width = self.child.width  # runs the setup of the child
            self.y = self.child.a
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.child.width)(self.child(x))

    return A()


@program()
def share_scope_of_low_rank_updates(nn: Any) -> Any:
    class DenseLoRA(nn.Module):
        inner: nn.Module
        rank: int

        def setup(self):
            nn.share_scope(self, self.inner)

        @nn.compact
        def __call__(self, x):
            A = self.param("A", nn.initializers.zeros_init(), (x.shape[-1], self.rank))
            B = self.param("B", nn.initializers.normal(), (self.rank, 3))
            return self.inner(x) + x @ A @ B

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = DenseLoRA(nn.Dense(3), 2)(x)
            return DenseLoRA(nn.Dense(3, name="named"), 2)(x)

    return Model()


@program()
def share_scope_of_siblings(nn: Any) -> Any:
    class A(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.b = nn.Dense(3, use_bias=False, name="bb")

            class Q(nn.Module):
                @nn.compact
                def __call__(self, x):
                    return x * self.param("q", nn.initializers.normal(), (3,))

            self.q = Q()
            nn.share_scope(self.q, self.a)

        def __call__(self, x):
            return self.q(self.b(self.a(x)))

    return A()


@program(
    mutable=["batch_stats", "state"],
    rounding=(Rounding(("grads/x",), "batch norm's derivative is compiled as one here: XLA adds in another order", 8),),
)
def share_scope_with_statistics(nn: Any) -> Any:
    class A(nn.Module):
        def setup(self):
            self.child = nn.BatchNorm(use_running_average=False)
            self.n = self.variable("state", "n", lambda: jnp.zeros(()))
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            self.n.value = self.n.value + 1
            return self.child(x) + nn.Dense(3)(x)

    return A()


@program()
def share_scope_after_a_call_below(nn: Any) -> Any:
    class B(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.y = self.a(jnp.ones((1, 3)))

        def __call__(self, x):
            return self.a(x) + self.y

    class A(nn.Module):
        def setup(self):
            self.child = B()
            self.z = self.child.y
            nn.share_scope(self, self.child)

        def __call__(self, x):
            return self.child(x) + self.z

    return A()


@program()
def share_scope_over_grandchildren(nn: Any) -> Any:
    class C(nn.Module):
        def setup(self):
            self.d = nn.Dense(3)
            self.e = nn.Dropout(0.5, deterministic=False, rng_collection="noise")

        def __call__(self, x):
            return self.e(self.d(x))

    class B(nn.Module):
        def setup(self):
            self.a = C()
            self.w = 3

        def __call__(self, x):
            return self.a(x)

    class A(nn.Module):
        def setup(self):
            self.child = B()
            self.w = self.child.w
            nn.share_scope(self, self.child)

        @nn.compact
        def __call__(self, x):
            return self.child(x) * jax.random.normal(self.make_rng("noise"), ())

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return A()(A(name="k")(x))

    return Top()


@program()
def share_scope_under_jit(nn: Any) -> Any:
    T = share_scope_over_grandchildren(nn)
    return nn.jit(type(T))()


@program()
def share_scope_then_remat_of_a_moved_child(nn: Any) -> Any:
    class B(nn.Module):
        def setup(self):
            self.a = nn.Dense(3)
            self.w = 3

        def __call__(self, x):
            return self.a(x)

    class A(nn.Module):
        def setup(self):
            self.child = B()
            self.w = self.child.w
            nn.share_scope(self, self.child)

        def __call__(self, x):
            return nn.remat(lambda m, x: m(x) + jax.random.normal(m.make_rng("noise"), ()))(self.child.a, x)

    return A()


@program()
def share_scope_after_draws_below(nn: Any) -> Any:
    class B(nn.Module):
        def setup(self):
            self.a = nn.Dropout(0.5, deterministic=False, rng_collection="noise")
            self.y = self.a(jnp.ones((1, 3)))

        def __call__(self, x):
            return self.a(x)

    class A(nn.Module):
        def setup(self):
            self.child = B()
            self.z = self.child.y
            nn.share_scope(self, self.child)

        def __call__(self, x):
            return self.child(x) + self.z

    return A()


@program()
def share_scope_after_one_of_two_was_called(nn: Any) -> Any:
    class B(nn.Module):
        def setup(self):
            self.a = [nn.Dense(3), nn.Dense(3)]

        def __call__(self, x):
            return self.a[1](self.a[0](x))

    class A(nn.Module):
        @nn.compact
        def __call__(self, x):
            b = B()
            x = b.a[0](x)
            nn.share_scope(self, b)
            return b(x) * self.param("s", nn.initializers.normal(), ())

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return A()(x)

    return Top()


@program()
def share_scope_with_a_field_in_compact(nn: Any) -> Any:
    class B(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    class A(nn.Module):
        base: nn.Module

        @nn.compact
        def __call__(self, x):
            y = nn.Dense(3, name="own")(x)
            nn.share_scope(self, self.base)
            return self.base(y) + self.param("s", nn.initializers.normal(), (3,))

    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            b = B()
            return A(b)(x)

    return Top()
