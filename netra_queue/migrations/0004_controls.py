from django.db import migrations, models

import netra_queue.fields


class Migration(migrations.Migration):
    dependencies = [
        ("netra_queue", "0003_what_people_send"),
    ]

    operations = [
        migrations.CreateModel(
            name="ControlState",
            fields=[
                ("id", models.SmallIntegerField(primary_key=True, serialize=False)),
                ("version", models.BigIntegerField(default=0)),
                ("is_off", models.BooleanField(db_default=False, default=False)),
                ("is_breaker_open", models.BooleanField(null=True, verbose_name="breaker")),
                ("breaker_until", models.DateTimeField(null=True, verbose_name="until")),
            ],
            options={
                "verbose_name": "breaker",
                "verbose_name_plural": "breaker",
                "default_permissions": ("view", "change"),
            },
        ),
        migrations.CreateModel(
            name="PolicyPattern",
            fields=[
                (
                    "pattern",
                    netra_queue.fields.ExactCharField(
                        max_length=200, primary_key=True, serialize=False, verbose_name="pattern"
                    ),
                ),
                ("policy", netra_queue.fields.ExactCharField(max_length=100, verbose_name="policy")),
                ("place", models.IntegerField(verbose_name="place")),
                ("changed_at", models.DateTimeField(verbose_name="changed at")),
            ],
            options={
                "verbose_name": "policy pattern",
                "verbose_name_plural": "policy patterns",
            },
        ),
        migrations.CreateModel(
            name="QueuePolicy",
            fields=[
                (
                    "name",
                    netra_queue.fields.ExactCharField(
                        max_length=100, primary_key=True, serialize=False, verbose_name="name"
                    ),
                ),
                ("values", netra_queue.fields.ExactTextField(verbose_name="values")),
                ("changed_at", models.DateTimeField(verbose_name="changed at")),
            ],
            options={
                "verbose_name": "policy",
                "verbose_name_plural": "policies",
            },
        ),
        migrations.AddField(
            model_name="queue",
            name="is_resolved",
            field=models.BooleanField(db_default=False, default=False),
        ),
    ]
